"""A simulated service under disturbance, in a world of pure models, with every commit audited."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from uuid import UUID

from shared.domain.drafts import Draft
from shared.domain.roles import Author, WorkerRole
from shared.engines.port import EngineDead, EngineFailed
from shared.messages import Command, ScoreSteps
from simulation.audit import Audit, Item, items_of
from simulation.bus import Letter, MemoryBus
from simulation.simulated_service import SimulatedService
from simulation.store import MemoryStore
from simulation.workers import Engines, RunningCommand
from simulation.world import World, WorldGenerator, WorldScorer

REMEMBERED_BYTES = 1500
"""Size of the prefixes that a worker remembers: so little that it forgets those of more than a few steps."""


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
        self._used: dict[RunningCommand, tuple[int, int]] = {}
        self.skew = timedelta()
        """How far the clock of the next orchestrator to act is ahead of the others'."""
        self._audit = Audit(repeats_texts=not is_salted)
        super().__init__(
            Engines(small=small, large=large, prm=prm),
            window=window,
            store=MemoryStore(on_commit=self._audit.note),
            bus=MemoryBus(keeps_history=True),
            remembered_bytes=REMEMBERED_BYTES,
        )
        self.tails.workers = dict.fromkeys(WorkerRole, 1)
        self.tails.least = 1

    def work(self, place: int = 0, *, holds: bool = False) -> None:
        """Have a worker finish one more step of a command; once it ends, check that it reported all that it used."""
        command = self.running[place]
        engine = self._engines[command.role]
        before = engine.used, engine.used_estimated
        super().work(place, holds=holds)
        used, used_estimated = self._used.pop(command, (0, 0))
        used, used_estimated = used + engine.used - before[0], used_estimated + engine.used_estimated - before[1]
        if not command.is_over:
            self._used[command] = used, used_estimated
        elif not command.was_requeued:
            assert (used, used_estimated) == _reported(command), "a worker does not report what its engine used"

    def crash_worker(self, place: int = 0) -> None:
        """Crash a worker in the middle of a command."""
        self._used.pop(self.running[place], None)
        super().crash_worker(place)

    def break_off(self, place: int = 0, *, fault: Exception | None = None) -> None:
        """Break the engine in the middle of the next step of a command."""
        command = self.running[place]
        with self._engines[command.role].broken(fault or EngineFailed()), suppress(EngineDead):
            self.work(place)
            if not command.is_over:
                self.work(place)

    def fail(self, place: int = 0) -> None:
        """Deliver a command to a worker whose engine breaks in the first step, unless the worker refuses it."""
        count = len(self.running)
        self.deliver(place)
        if len(self.running) > count:
            self.break_off(count)

    def refuse(self, command: Command, refusal: Exception) -> None:
        """Deliver a copy of a command to a worker whose engine refuses it."""
        self.bus.resend(command)
        self.deliver(len(self.bus.letters) - 1)
        with self._engines[self.running[-1].role].refusing(refusal):
            self.work(len(self.running) - 1)

    def sweep(self, *, crashes: bool = False) -> None:
        """Sweep, and check what was committed."""
        super().sweep(crashes=crashes)
        self._audit.check()

    def _now(self) -> datetime:
        return super()._now() + self.skew

    def settle(self, *, max_turns: int = 5_000) -> None:
        """Run without further disturbance until nothing is left to do."""
        self.skew = timedelta()
        for _ in range(max_turns):
            if not self.turn():
                return
        raise AssertionError("the problems run for ever")

    def _orchestrate(self, letters: Sequence[Letter], *, crashes: bool = False) -> None:
        for letter in letters:
            self._audit.hear(letter.message)
        super()._orchestrate(letters, crashes=crashes)
        self._audit.check()


def _reported(command: RunningCommand) -> tuple[int, int]:
    """Sum up the tokens that a worker reported of one command: exact ones, and estimated ones."""
    items: dict[UUID, Item] = {}
    for message in command.published:
        items |= items_of(message)
    if isinstance(command.command, ScoreSteps):
        items = {identity: item for identity, item in items.items() if not isinstance(item, Draft)}
    return sum(each.tokens for each in items.values()), sum(each.estimated_tokens for each in items.values())
