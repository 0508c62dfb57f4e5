"""What the orchestrator looks for between messages: problems to start, to end, or to ask for again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, asdict, dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from shared.domain.status import Status
from shared.store.tables import InboxRow, Problem, Process

_ADMISSION_LOCK = 0x7472_696D
"""Advisory lock: one orchestrator at a time admits, so that several replicas keep to one window."""

INBOX_KEPT = timedelta(hours=24)
"""How long a finished problem's inbox stays: a message that arrives later may be booked twice as wasted."""

BROKER = "broker"
"""Stands for the broker among the processes: orchestrators note it here while it answers them."""

PROCESS_KEPT = timedelta(hours=1)
"""How long a process that is silent is remembered."""


class Due(NamedTuple):
    """A problem that is due for something."""

    problem_id: UUID
    is_cancelling: bool
    """Whether its submitter asked to cancel it."""


_DUE = (Problem.id, Problem.cancel_requested_at.is_not(None))


def next_queued(connection: Connection, *, window: int, limit: int) -> list[Due]:
    """Find the queued problems, oldest first, that fit into the window beside those that run.

    The window holds across replicas until the transaction ends; a replica that finds another one admitting
    gets an empty list.
    """
    if not connection.scalar(select(func.pg_try_advisory_xact_lock(_ADMISSION_LOCK))):
        return []
    running = connection.scalar(select(func.count()).where(Problem.status == Status.RUNNING)) or 0
    if running >= window:
        return []
    queued = (
        select(*_DUE)
        .where(Problem.status == Status.QUEUED)
        .order_by(Problem.created_at, Problem.batch_index, Problem.id)
        .limit(min(window - running, limit))
        .with_for_update(skip_locked=True)
    )
    return [Due(*row) for row in connection.execute(queued)]


def find_attention(connection: Connection, *, now: datetime, limit: int) -> list[Due]:
    """Find problems that are overdue, past their deadline, or asked to be cancelled; each once."""
    open_ = Problem.status.in_([Status.QUEUED, Status.RUNNING])
    # One query for each: every one of them has its index.
    queries = (
        select(*_DUE).where(open_, Problem.cancel_requested_at.is_not(None)),
        select(*_DUE).where(open_, Problem.deadline_at <= now),
        select(*_DUE).where(Problem.status == Status.RUNNING, Problem.due_at <= now),
    )
    found = {Due(*row) for query in queries for row in connection.execute(query.limit(limit))}
    return list(found)[:limit]


def prune_inbox(connection: Connection, *, now: datetime, limit: int = 5000) -> int:
    """Delete inbox rows of problems that ended long ago; return how many."""
    old = (
        select(InboxRow.id)
        .join(Problem, Problem.id == InboxRow.problem_id)
        .where(Problem.finished_at < now - INBOX_KEPT)
        .limit(limit)
    )
    return connection.execute(delete(InboxRow).where(InboxRow.id.in_(old))).rowcount


@dataclass(frozen=True, slots=True)
class SeenProcess:
    """A sign of life of a process of the service."""

    name: str
    _: KW_ONLY
    role: str
    model: str | None
    seen_at: datetime


def record_processes(connection: Connection, seen: Iterable[SeenProcess]) -> None:
    """Note which processes were heard of; in the order of names, so that two transactions cannot deadlock."""
    rows = [asdict(each) for each in sorted(seen, key=lambda each: each.name)]
    if not rows:
        return
    row = insert(Process)
    connection.execute(
        row.on_conflict_do_update(
            index_elements=["name"],
            set_={"role": row.excluded.role, "model": row.excluded.model, "seen_at": row.excluded.seen_at},
            where=Process.seen_at < row.excluded.seen_at,
        ),
        rows,
    )


def forget_silent_processes(connection: Connection, *, now: datetime) -> list[str]:
    """Forget processes that were silent for long; return their names."""
    silent = delete(Process).where(Process.seen_at < now - PROCESS_KEPT).returning(Process.name)
    return list(connection.scalars(silent))


def forget_processes(connection: Connection, *, names: Iterable[str]) -> None:
    """Forget what processes of these names have said."""
    connection.execute(delete(Process).where(Process.name.in_(list(names))))
