"""A simulated service under disturbance, in a world of pure models, with every commit audited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from shared.domain.drafts import Draft, Scoring
from shared.domain.roles import Author, WorkerRole
from shared.engines.port import EngineFailed
from shared.messages import GenerateSteps
from simulation.audit import Audit, items_of
from simulation.bus import Letter, MemoryBus
from simulation.service import SimulatedService
from simulation.store import MemoryStore
from simulation.workers import Engines, RunningCommand
from simulation.world import World, WorldGenerator, WorldScorer


class DisturbedService(SimulatedService):
    """Breaks what can break; checks every commit, and that workers report all that their engines used."""

    def __init__(self, world: World, *, is_salted: bool = False, window: int = 64) -> None:
        """Start with no problems.

        Args:
            world: What the models write and score.
            is_salted: Whether the same work gives another text each time.
            window: Maximum number of problems that run at the same time.
        """
        small = WorldGenerator(world, Author.SMALL, is_salted=is_salted)
        large = WorldGenerator(world, Author.LARGE, is_salted=is_salted)
        prm = WorldScorer(world)
        self._engines = {WorkerRole.SMALL: small, WorkerRole.LARGE: large, WorkerRole.PRM: prm}
        self._audit = Audit(repeats_texts=not is_salted)
        super().__init__(
            Engines(small=small, large=large, prm=prm),
            window=window,
            store=MemoryStore(on_commit=self._audit.note),
            bus=MemoryBus(keeps_history=True),
        )

    def work(self, place: int = 0, *, holds: bool = False) -> None:
        """Have a worker finish one more step of a command; once it ends, check that it reported all that it used."""
        command = self.running[place]
        engine = self._engines[command.role]
        before = engine.used.copy()
        super().work(place, holds=holds)
        command.used.update(engine.used - before)
        if command.is_over and not command.was_requeued:
            assert +command.used == _reported(command), "a worker does not report what its engine used"

    def break_off(self, place: int = 0, *, fault: Exception | None = None) -> None:
        """Break the engine in the middle of the next step of a command."""
        with self._engines[self.running[place].role].broken(fault or EngineFailed()):
            self.work(place)

    def fail(self, place: int = 0, *, fault: Exception | None = None) -> None:
        """Deliver a command to a worker whose engine breaks in the first step."""
        self.deliver(place)
        self.break_off(len(self.running) - 1, fault=fault)

    def sweep(self, *, crashes: bool = False) -> None:
        """Sweep, and check what was committed."""
        super().sweep(crashes=crashes)
        self._audit.check()

    def settle(self, *, max_turns: int = 5_000) -> None:
        """Run without further disturbance until nothing is left to do."""
        for _ in range(max_turns):
            if not self.turn():
                return
        raise AssertionError("the problems run for ever")

    def _orchestrate(self, letters: Sequence[Letter], *, crashes: bool = False) -> None:
        for letter in letters:
            self._audit.hear(letter.message)
        super()._orchestrate(letters, crashes=crashes)
        self._audit.check()


def _reported(command: RunningCommand) -> Counter[str]:
    """Sum up the tokens that a worker reported of one command."""
    items = {}
    for message in command.published:
        items.update(items_of(message))
    reported: Counter[str] = Counter()
    for item in items.values():
        is_its_own = not isinstance(item, Draft) or isinstance(command.command, GenerateSteps)
        if is_its_own:
            is_estimated = not isinstance(item, Draft | Scoring) and item.is_estimated
            reported["estimated" if is_estimated else "exact"] += item.tokens
    return +reported
