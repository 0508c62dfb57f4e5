"""The store as the orchestrator uses it. Postgres implements it in production, memory in simulations."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from shared.domain.artefacts import EncodedArtefact
from shared.domain.fitness import Unfit
from shared.domain.options import PolicyChoice
from shared.domain.roles import WorkerRole
from shared.domain.shadows import Shadow, ShadowRecord
from shared.machine.state import State
from shared.messages import PrefixMissing, ProblemEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedProblem:
    """A problem that no other transaction changes until this one ends."""

    state: State
    """With `decisions` empty: earlier ones are stored and never read again."""
    policy: PolicyChoice
    shadows: tuple[Shadow, ...] = ()
    submitted_at: datetime | None = field(default=None, compare=False)
    """When it was submitted, by the store's clock; `None` in a simulation."""
    cancel_requested_at: datetime | None = field(default=None, compare=False)
    """When its submitter requested its cancellation, by the store's clock."""
    defect: str | None = None
    """Why the row cannot be read by this version. `state` then holds only what is needed to fail the problem."""


@dataclass(frozen=True, slots=True)
class Change:
    """A problem before and after events were applied to it."""

    locked: LockedProblem
    after: State
    _: KW_ONLY
    shadow_decisions: Sequence[ShadowRecord] = ()
    """What the problem's shadows decided beside the new decisions."""
    heard: Sequence[ProblemEvent] = ()
    """The events from workers that changed something."""
    completed: Sequence[PrefixMissing] = ()
    """Requests of workers for what they lack of a prefix, each with the command that brings it."""
    is_redelivered: bool = False
    """Whether one of the events was redelivered, so that its commands must be published again."""


class Due(NamedTuple):
    """A problem that needs attention."""

    problem_id: UUID
    is_cancelling: bool
    """Whether its submitter requested its cancellation."""


@dataclass(frozen=True, slots=True)
class SeenProcess:
    """A heartbeat of a process of the service."""

    name: str
    _: KW_ONLY
    role: str
    model: str | None
    seen_at: datetime
    unfit: Unfit | None = None
    """Why a worker takes no commands for now; `None` if it takes them."""
    clock_ahead_s: float | None = None
    """Seconds by which its own clock is ahead of the database's; `None` if unknown."""
    completes_prefixes: bool = False
    """Whether a worker adds the steps that commands leave out."""


class Transaction(Protocol):
    """An open transaction; its effects become visible together when it commits."""

    def lock(self, problem_ids: Collection[UUID], *, heard: Collection[UUID] = ()) -> dict[UUID, LockedProblem]:
        """Lock problems in the order of their ids, and read their states.

        Args:
            problem_ids: Ids of the problems. Unknown ones, and those that another session has locked, are missing from
                the result; `find_existing` tells them apart.
            heard: Ids of the events and drafts about to be applied; those booked before are in `State.booked`.
        """

    def find_existing(self, problem_ids: Collection[UUID]) -> Collection[UUID]:
        """Find the problems that exist, locked or not."""

    def save(self, changes: Iterable[Change]) -> None:
        """Write what changed: steps, scores, decisions, those of shadows, inbox, and the problems' rows."""

    def wake_orchestrators(self) -> None:
        """Notify all orchestrators, at commit, that the window has room."""

    def record_processes(self, seen: Iterable[SeenProcess]) -> None:
        """Record heartbeats; an older one never replaces a newer one, and one whose row is locked is dropped."""

    def next_queued(
        self, *, now: datetime, window: int, limit: int, away: Collection[WorkerRole] = ()
    ) -> Sequence[UUID]:
        """Find queued problems that fit into the window beside the running ones, fairly between tenants.

        Those that are to be cancelled or are past their deadline need attention instead, and others pass them. While
        roles are away, others also pass those that would wait for one, and running problems that wait do not count.

        Args:
            now: The time.
            window: Maximum number of problems that go on at the same time.
            limit: Maximum number of problems to find.
            away: The roles that are away.
        """

    def find_attention(self, *, now: datetime, limit: int) -> Sequence[Due]:
        """Find problems that are overdue, past their deadline, or to be cancelled, each once.

        The three kinds take turns, each with its longest due first.
        """

    def workers(self) -> Sequence[SeenProcess]:
        """Read the newest heartbeat of each worker process."""

    def find_untold(self, away: Collection[WorkerRole], *, limit: int) -> Sequence[Due]:
        """Find running problems that do not know that a role is away, or that one is back; longest running first.

        Args:
            away: The roles that are away, of all.
            limit: Maximum number of problems.
        """


class Store(Protocol):
    """Reasoning state of all problems."""

    def begin(self) -> AbstractContextManager[Transaction]:
        """Open a transaction: it commits at the end of the block, and rolls back if the block raises.

        Raises:
            RetryableError: The store is unavailable.
        """

    def read_artefact(self, policy: str, version: int) -> EncodedArtefact | None:
        """Read a policy's artefact in a separate transaction; `None` if there is none of this number.

        Raises:
            RetryableError: The store is unavailable.
        """
