"""Branches that engines write: the real state machine and the real workers' code between two decisions of a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.counting import Caches, Readers
from shared.domain.decisions import Action, Decision, Observation, PolicyVersion
from shared.domain.roles import WorkerRole
from shared.domain.verdict import Verdict
from shared.machine.commands import next_commands
from shared.machine.state import ProblemAdmitted, RequestOverdue, State
from shared.machine.transitions import apply
from shared.messages import CancelWork, Command, ProblemEvent, WorkFailed
from simulation.bus import MemoryBus
from simulation.clock import START, SettableClock
from simulation.workers import Engines, Workers
from training.environment import Branches, Outcome, Turn


@dataclass(frozen=True, slots=True)
class Undecided:
    """A problem right before the event whose draft is to be decided."""

    state: State
    event: ProblemEvent
    caches: Caches
    """What the engines' prefix caches hold."""


class EngineBranches(Branches[Undecided]):
    """Problems that engines solve.

    The real state machine and the real workers' code run them, so that rules, limits and costs are those of the
    service. Give it engines that remember (`simulation/remembering.py`): different decisions often lead to the same
    prefix.
    """

    def __init__(
        self, problems: Sequence[State], engines: Engines, *, readers: Readers | None = None, threads: int = 0
    ) -> None:
        """Start with nothing known.

        Args:
            problems: New problems with their references and a lookahead of 0. One question may occur with several
                seeds.
            engines: The engines.
            readers: How they encode what they read; with it, ledgers hold what engines without memory would compute.
            threads: As for `Branches`.
        """
        super().__init__(len(problems), threads=threads)
        self._problems = problems
        self._engines = engines
        self._readers = readers

    def _start(self, problem: int) -> Outcome[Undecided]:
        state = self._problems[problem]
        admitted = apply(state, ProblemAdmitted(), policy=_Always(Action.ACCEPT), now=START)
        return self._advance(admitted, Caches(), spent=0)

    def _take(self, place: Undecided, action: Action) -> Outcome[Undecided]:
        before = place.state
        after = apply(before, place.event, policy=_Always(action), now=START)
        return self._advance(after.evolve(decisions=()), place.caches.copy(), spent=before.ledger.large_out)

    def _advance(self, state: State, caches: Caches, *, spent: int) -> Outcome[Undecided]:
        """Go to the next decision of a policy, or to the end; rules decide on the way.

        Args:
            state: The problem.
            caches: What the prefix caches hold; updated.
            spent: Large tokens of the trajectory at the decision before.
        """
        while not state.status.is_final:
            for event in self._carry_out(next_commands(state), caches):
                policy = _Always(Action.ACCEPT)
                after = apply(state, event, policy=policy, now=START)
                if policy.seen is not None:
                    turn = Turn(policy.seen, Undecided(state, event, caches))
                    return Outcome(large_tokens=state.ledger.large_out - spent, turn=turn)
                state = after
                if isinstance(event, WorkFailed) and state.due_at is not None:
                    state = apply(state, RequestOverdue(), policy=policy, now=state.due_at)
        return Outcome(
            large_tokens=state.ledger.large_out - spent,
            turn=None,
            is_solved=state.verdict is Verdict.CORRECT,
            ledger=state.ledger,
        )

    def _carry_out(self, commands: Sequence[Command | CancelWork], caches: Caches) -> list[ProblemEvent]:
        """Have workers carry out commands; return the events that they publish.

        Raises:
            EngineDead: An engine broke down.
        """
        bus = MemoryBus(keeps_history=False)
        engines = self._readers.counting(self._engines, caches) if self._readers else self._engines
        workers = Workers(engines, bus, SettableClock().clock)
        bus.publish(*commands)
        events: list[ProblemEvent] = []
        while bus.letters:
            letter = bus.take()
            if isinstance(letter.queue, WorkerRole):
                workers.start(letter.queue, letter).finish()
            elif isinstance(letter.message, ProblemEvent):
                events.append(letter.message)
        return events


class _Always:
    """Takes the same action at every decision, and remembers what it saw at the last one."""

    version = PolicyVersion(name="always", revision=1, parameters_digest="0" * 16)
    models = None

    def __init__(self, action: Action) -> None:
        self.seen: Observation | None = None
        self._action = action

    def decide(self, observation: Observation) -> Decision:
        """Take the action."""
        self.seen = observation
        return Decision(action=self._action, reason="always")

    def before_draft(self, observation: Observation) -> Decision | None:  # noqa: ARG002 - each step is drafted
        """Have the step drafted."""
        return None
