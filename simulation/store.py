"""The store in memory: transactions are all-or-nothing and one at a time."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from shared.domain.artefacts import EncodedArtefact
from shared.domain.decisions import DecisionRecord
from shared.domain.options import PolicyChoice
from shared.domain.roles import WorkerRole
from shared.domain.shadows import Shadow, ShadowRecord
from shared.domain.status import Status
from shared.machine.admitting import may_start, room_of
from shared.machine.state import State, needed_roles
from shared.store.port import Change, Due, LockedProblem, SeenProcess

TENANT = UUID(int=0)
"""Tenant of a problem whose submitter names none."""


class ConstraintViolated(Exception):
    """A write that the database would refuse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredProblem:
    """One problem as committed."""

    state: State
    """Without `booked` and `decisions`, which the store keeps apart."""
    policy: PolicyChoice
    shadows: tuple[Shadow, ...] = ()
    tenant: UUID
    number: int
    """Place in the order of submission."""
    cancel_requested_at: datetime | None = None
    defect: str | None = None
    """Why an orchestrator cannot read it, to simulate such a row."""

    @property
    def due(self) -> Due:
        """The problem as the sweeper finds it."""
        return Due(self.state.problem_id, is_cancelling=self.cancel_requested_at is not None)

    @property
    def needs_attention_at(self) -> datetime | None:
        """When the sweeper has to look at it; `None` if only an event can move it."""
        if self.state.status.is_final:
            return None
        return min((moment for moment in self.attention_moments if moment is not None), default=None)

    def needs_end(self, now: datetime) -> bool:
        """Whether it is to be cancelled, or past its deadline."""
        deadline_at = self.state.options.deadline_at
        return self.cancel_requested_at is not None or (deadline_at is not None and deadline_at <= now)

    @property
    def attention_moments(self) -> tuple[datetime | None, datetime | None, datetime | None]:
        """The cancellation, the deadline, and when the request is overdue."""
        state = self.state
        due_at = state.due_at if state.status is Status.RUNNING else None
        return self.cancel_requested_at, state.options.deadline_at, due_at


@dataclass(slots=True)
class _Contents:
    problems: dict[UUID, StoredProblem] = field(default_factory=dict)
    decisions: dict[tuple[UUID, int], DecisionRecord] = field(default_factory=dict)
    shadow_decisions: dict[tuple[UUID, int, int], ShadowRecord] = field(default_factory=dict)
    """By problem, number of the decision, and place of the shadow."""
    inbox: dict[UUID, set[UUID]] = field(default_factory=lambda: defaultdict(set))
    """Booked ids by problem."""
    processes: dict[str, SeenProcess] = field(default_factory=dict)

    def update(self, other: _Contents) -> None:
        self.problems.update(other.problems)
        self.decisions.update(other.decisions)
        self.shadow_decisions.update(other.shadow_decisions)
        for problem_id, booked in other.inbox.items():
            self.inbox[problem_id] |= booked
        self.processes.update(other.processes)


class MemoryStore:
    """Keeps problems, decisions, the inbox and heartbeats."""

    def __init__(self, *, on_commit: Callable[[Sequence[Change]], None] = lambda _: None) -> None:
        """Create an empty store.

        Args:
            on_commit: Called with the changes of each transaction right after its commit.
        """
        self._contents = _Contents()
        self._open: set[UUID] = set()
        self._artefacts: dict[tuple[str, int], EncodedArtefact] = {}
        self._lock = threading.RLock()
        self._on_commit = on_commit
        self.wake_ups = 0
        """Number of committed notifications that the window has room."""

    # --- as submitters and readers use it -----------------------------------------------------------------------------

    def submit(
        self, state: State, policy: PolicyChoice, *, shadows: Sequence[Shadow] = (), tenant: UUID = TENANT
    ) -> None:
        """Add a queued problem."""
        with self._lock:
            problems = self._contents.problems
            assert state.problem_id not in problems, "a problem is submitted twice"
            problems[state.problem_id] = StoredProblem(
                state=state, policy=policy, shadows=tuple(shadows), tenant=tenant, number=len(problems)
            )
            self._open.add(state.problem_id)

    def request_cancel(self, problem_id: UUID, *, now: datetime) -> None:
        """Record that the submitter cancels a problem."""
        with self._lock:
            problems = self._contents.problems
            problems[problem_id] = replace(problems[problem_id], cancel_requested_at=now)

    def damage(self, problem_id: UUID, defect: str) -> None:
        """Make a problem unreadable to the orchestrator."""
        with self._lock:
            problems = self._contents.problems
            problems[problem_id] = replace(problems[problem_id], defect=defect)

    def choose(self, problem_id: UUID, policy: PolicyChoice) -> None:
        """Have another policy decide a problem, as if its submitter had chosen it."""
        with self._lock:
            problems = self._contents.problems
            problems[problem_id] = replace(problems[problem_id], policy=policy)

    def state(self, problem_id: UUID) -> State:
        """Return a problem with all its decisions."""
        state = self._contents.problems[problem_id].state
        decisions = (self._contents.decisions[problem_id, number] for number in range(state.decision_count))
        return replace(state, decisions=tuple(decisions))

    def shadow_decisions(self, problem_id: UUID) -> list[ShadowRecord]:
        """Return what a problem's shadows decided, in the order of its decisions and shadows."""
        known = self._contents.shadow_decisions
        return [known[key] for key in sorted(known) if key[0] == problem_id]

    @property
    def open_problems(self) -> Collection[UUID]:
        """Problems that have not ended."""
        return self._open

    @property
    def processes(self) -> Mapping[str, SeenProcess]:
        """The newest heartbeat of each process, by name."""
        return self._contents.processes

    def next_attention_at(self) -> datetime | None:
        """Return when the sweeper next has something to do."""
        moments = (self._contents.problems[each].needs_attention_at for each in self._open)
        return min((moment for moment in moments if moment is not None), default=None)

    def register(self, artefact: EncodedArtefact) -> int:
        """Register a policy's artefact, and return its number; one that is known keeps its number."""
        with self._lock:
            numbers = {each.digest: version for (_, version), each in self._artefacts.items()}
            version = numbers.get(artefact.digest, len(self._artefacts) + 1)
            self._artefacts[artefact.policy, version] = artefact
            return version

    # --- as the orchestrator uses it ----------------------------------------------------------------------------------

    def read_artefact(self, policy: str, version: int) -> EncodedArtefact | None:
        """Read a policy's artefact."""
        return self._artefacts.get((policy, version))

    @contextmanager
    def begin(self) -> Iterator[MemoryTransaction]:
        """Open a transaction: it commits at the end of the block, and rolls back if the block raises."""
        with self._lock:
            transaction = MemoryTransaction(self._contents, self._open)
            yield transaction
            self._contents.update(transaction.written)
            self._open -= {
                problem_id
                for problem_id, stored in transaction.written.problems.items()
                if stored.state.status.is_final
            }
            self.wake_ups += transaction.has_woken
            self._on_commit(transaction.changes)


class MemoryTransaction:
    """An open transaction: reads what was committed and what it has written itself."""

    def __init__(self, committed: _Contents, open_problems: Collection[UUID]) -> None:
        self._committed = committed
        self._open = open_problems
        self._locked: set[UUID] = set()
        self.written = _Contents()
        self.changes: list[Change] = []
        self.has_woken = False

    def lock(self, problem_ids: Collection[UUID], *, heard: Collection[UUID] = ()) -> dict[UUID, LockedProblem]:
        """Lock problems and read their states."""
        found: dict[UUID, LockedProblem] = {}
        heard = frozenset(heard)
        for problem_id in sorted(problem_ids):
            stored = self._problem(problem_id)
            if stored is not None:
                state = stored.state.evolve(booked=self._booked(problem_id, heard))
                found[problem_id] = LockedProblem(
                    state=state,
                    policy=stored.policy,
                    shadows=stored.shadows,
                    cancel_requested_at=stored.cancel_requested_at,
                    defect=stored.defect,
                )
        self._locked |= found.keys()
        return found

    def find_existing(self, problem_ids: Collection[UUID]) -> set[UUID]:
        """Find the problems that exist."""
        return {each for each in problem_ids if self._problem(each) is not None}

    def save(self, changes: Iterable[Change]) -> None:
        """Write what changed.

        Raises:
            ConstraintViolated: The database would refuse it.
        """
        for change in changes:
            before, after = change.locked.state, change.after
            if after is before:
                continue
            self._check(change)
            problem_id = after.problem_id
            self.written.inbox[problem_id] |= after.booked - before.booked
            self.written.decisions |= {(problem_id, record.number): record for record in after.decisions}
            self.written.shadow_decisions |= {
                (problem_id, record.number, record.shadow): record for record in change.shadow_decisions
            }
            stored = self._problem(problem_id)
            assert stored is not None
            kept = after.evolve(booked=frozenset(), decisions=())
            self.written.problems[problem_id] = replace(stored, state=kept)
            self.changes.append(change)

    def wake_orchestrators(self) -> None:
        """Notify all orchestrators, at commit, that the window has room."""
        self.has_woken = True

    def record_processes(self, seen: Iterable[SeenProcess]) -> None:
        """Record heartbeats; an older one never replaces a newer one."""
        for each in seen:
            known = self.written.processes.get(each.name) or self._committed.processes.get(each.name)
            if known is None or known.seen_at < each.seen_at:
                self.written.processes[each.name] = each

    def next_queued(
        self, *, now: datetime, window: int, limit: int, away: Collection[WorkerRole] = ()
    ) -> Sequence[UUID]:
        """Find queued problems that fit into the window, next those of the tenant with the fewest that go on."""
        known = self._open_problems()
        running = [each for each in known if each.state.status is Status.RUNNING]
        waiting = [each for each in running if away and each.state.waits_for]
        going = Counter(each.tenant for each in running if each not in waiting)
        crowded = len(waiting) >= window
        queued = [
            each
            for each in sorted(known, key=lambda each: each.number)
            if each.state.status is Status.QUEUED
            and not each.needs_end(now)
            and may_start(each.state.options.plan, each.state.options.bridging, away, is_crowded=crowded)
        ]
        found: list[UUID] = []
        room = room_of(window, running=len(running), waiting=len(waiting))
        for _ in range(min(room, limit, len(queued))):
            chosen = min(queued, key=lambda each: (going[each.tenant], each.number))
            queued.remove(chosen)
            going[chosen.tenant] += 1
            found.append(chosen.state.problem_id)
        return found

    def find_attention(self, *, now: datetime, limit: int) -> Sequence[Due]:
        """Find problems that are overdue, past their deadline, or to be cancelled, each once and each kind in turn."""
        known = {each.number: each for each in self._open_problems()}
        turns, moments = dict[int, int](), dict[int, datetime]()
        for kind in range(3):
            found = [(each.attention_moments[kind], number) for number, each in known.items()]
            due = sorted((moment, number) for moment, number in found if moment is not None and moment <= now)
            for turn, (moment, number) in enumerate(due):
                turns[number] = min(turns.get(number, turn), turn)
                moments[number] = min(moments.get(number, moment), moment)
        order = sorted(turns, key=lambda number: (turns[number], moments[number], number))
        return [known[number].due for number in order[:limit]]

    def workers(self) -> Sequence[SeenProcess]:
        """Read the newest heartbeat of each worker process."""
        known = self._committed.processes | self.written.processes
        return [each for _, each in sorted(known.items()) if each.role in set(WorkerRole)]

    def find_untold(self, away: Collection[WorkerRole], *, limit: int) -> Sequence[Due]:
        """Find running problems that do not know that a role is away, or that one is back."""
        found = [
            each
            for each in sorted(self._open_problems(), key=lambda each: (str(each.state.started_at), each.number))
            if each.state.status is Status.RUNNING and _is_untold(each.state, set(away))
        ]
        return [each.due for each in found[:limit]]

    def _check(self, change: Change) -> None:
        before, after = change.locked.state, change.after
        problem_id = after.problem_id
        if problem_id not in self._locked:
            raise ConstraintViolated("a problem is written that is not locked")
        if self._booked(problem_id, after.booked - before.booked):
            raise ConstraintViolated("an id is booked twice")
        for record in after.decisions:
            key = problem_id, record.number
            if key in self._committed.decisions or key in self.written.decisions:
                raise ConstraintViolated("a decision is overwritten")
        for shadowed in change.shadow_decisions:
            place = problem_id, shadowed.number, shadowed.shadow
            if place in self._committed.shadow_decisions or place in self.written.shadow_decisions:
                raise ConstraintViolated("a shadow's decision is overwritten")
        for old, new in zip(before.steps, after.steps, strict=False):
            if old is not new and old != replace(new, score=old.score):
                raise ConstraintViolated("a step is rewritten")
        if len(after.steps) < len(before.steps):
            raise ConstraintViolated("a step is removed")

    def _problem(self, problem_id: UUID) -> StoredProblem | None:
        return self.written.problems.get(problem_id) or self._committed.problems.get(problem_id)

    def _booked(self, problem_id: UUID, ids: frozenset[UUID]) -> frozenset[UUID]:
        """Return those of some ids that are booked for a problem."""
        return ids & (self._committed.inbox[problem_id] | self.written.inbox[problem_id])

    def _open_problems(self) -> list[StoredProblem]:
        known = (self._problem(each) for each in self._open)
        return [each for each in known if each is not None and not each.state.status.is_final]


def _is_untold(state: State, away: set[WorkerRole]) -> bool:
    known = {each.role for each in state.absences}
    return bool(known - away) or bool((needed_roles(state.request, state.options.plan) & away) - known)
