"""Searches of the orchestrator between messages: problems to start, to end, or to request again; and processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    Select,
    bindparam,
    delete,
    func,
    literal_column,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased

from shared.domain.status import Status
from shared.store.port import Due, SeenProcess
from shared.store.tables import Problem, Process

_ADMISSION_LOCK: Final = 0x7472_696D
"""Advisory lock: one orchestrator at a time admits, so that all replicas keep to one window."""

BROKER: Final = "broker"
"""Name of the broker among the processes: orchestrators record it while they reach it."""

PROCESS_KEPT: Final = timedelta(hours=1)
"""Time after which a silent process is forgotten."""


def _has_status(problem: type[Problem], *statuses: str) -> ColumnElement[bool]:
    """Compare with literals: a partial index is used only if the statement proves its condition."""
    listed: list[ColumnElement[str]] = [literal_column(f"'{status}'") for status in statuses]
    return problem.status == listed[0] if len(listed) == 1 else problem.status.in_(listed)


def next_queued(connection: Connection, *, window: int, limit: int) -> list[Due]:
    """Find the queued problems that fit into the window beside the running ones, fairly between tenants.

    The window holds across replicas until the transaction ends. A replica gets an empty list while another one admits.
    Problems that another transaction has locked are left out, and the next ones take their place.
    """
    if not connection.scalar(select(func.pg_try_advisory_xact_lock(_ADMISSION_LOCK))):
        return []
    running = connection.scalar(_COUNT[Status.RUNNING]) or 0
    if running >= window:
        return []
    room = min(window - running, limit)
    found = connection.execute(_NEXT_QUEUED, {"room": room, "candidates": _count_candidates(room)})
    return [Due(*row) for row in found]


def find_attention(connection: Connection, *, now: datetime, limit: int) -> list[Due]:
    """Find problems that are to be cancelled, past their deadline, or overdue; each once, longest due first.

    Problems that another transaction has locked are left out, and the next ones take their place.
    """
    found = connection.execute(_FIND_ATTENTION, {"now": now, "limit": limit, "candidates": _count_candidates(limit)})
    return [Due(*row) for row in found]


def count_open(connection: Connection) -> dict[Status, int]:
    """Count the queued and the running problems, each in their partial index."""
    return {status: connection.scalar(_COUNT[status]) or 0 for status in (Status.QUEUED, Status.RUNNING)}


def record_processes(connection: Connection, seen: Iterable[SeenProcess]) -> None:
    """Record heartbeats, in the order of names, so that two transactions cannot deadlock."""
    rows = [asdict(each) for each in sorted(seen, key=lambda each: each.name)]
    if rows:
        connection.execute(_RECORD_PROCESSES, rows)


def forget_silent_processes(connection: Connection, *, now: datetime) -> list[str]:
    """Forget processes that were silent for `PROCESS_KEPT`; return their names."""
    silent = delete(Process).where(Process.seen_at < now - PROCESS_KEPT).returning(Process.name)
    return list(connection.scalars(silent))


def forget_processes(connection: Connection, *, names: Iterable[str]) -> None:
    """Forget the heartbeats of processes of these names."""
    connection.execute(delete(Process).where(Process.name.in_(list(names))))


def _count_candidates(wanted: int) -> int:
    """Return how many rows to choose so that the wanted number is left when locked ones are skipped.

    Another replica's sweep locks about as many as this one; the api and operators lock a few more.
    """
    return 2 * wanted + 20


def _queued_tenants() -> CTE:
    """Select the tenants with queued problems: one index probe for each, however many problems each has queued."""
    first = (
        select(Problem.tenant_id).where(_has_status(Problem, "queued")).order_by(Problem.tenant_id).limit(1).subquery()
    )
    tenants = select(first.c.tenant_id).cte("tenants", recursive=True)
    following = (
        select(Problem.tenant_id)
        .where(_has_status(Problem, "queued"), Problem.tenant_id > tenants.c.tenant_id)
        .order_by(Problem.tenant_id)
        .limit(1)
        .scalar_subquery()
    )
    return tenants.union_all(select(following).where(tenants.c.tenant_id.is_not(None)))


def _next_queued() -> Select[UUID, bool]:
    """Select queued problems by turn: the number of the tenant's problems that run or are ahead in its queue.

    So tenants fill the window in equal parts, and a long queue delays only its own tenant.
    """
    room, candidates = (bindparam(name, type_=Problem.batch_index.type) for name in ("room", "candidates"))
    tenants = _queued_tenants()
    running = (
        select(Problem.tenant_id, func.count().label("problems"))
        .where(_has_status(Problem, "running"))
        .group_by(Problem.tenant_id)
        .cte("running")
    )
    waiting = aliased(Problem)
    queue = (
        select(waiting.id)
        .where(waiting.tenant_id == tenants.c.tenant_id, _has_status(waiting, "queued"))
        .order_by(waiting.id)
        .limit(candidates)
        .lateral("queue")
    )
    place = func.row_number().over(partition_by=tenants.c.tenant_id, order_by=queue.c.id)
    turn = (func.coalesce(running.c.problems, 0) + place).label("turn")
    chosen = (
        select(queue.c.id, turn)
        .select_from(tenants.join(queue, true()).outerjoin(running, running.c.tenant_id == tenants.c.tenant_id))
        .order_by(turn, queue.c.id)
        .limit(candidates)
        .cte("chosen")
    )
    return (
        select(*_DUE)
        .join(chosen, chosen.c.id == Problem.id)
        .where(_has_status(Problem, "queued"))
        .order_by(chosen.c.turn, chosen.c.id)
        .limit(room)
        .with_for_update(skip_locked=True, of=Problem)
    )


def _find_attention() -> Select[UUID, bool]:
    """Select the longest due of each kind, each along its index, and of these the longest due."""
    now = bindparam("now", type_=Problem.due_at.type)
    limit, candidates = (bindparam(name, type_=Problem.batch_index.type) for name in ("limit", "candidates"))
    is_open = _has_status(Problem, "queued", "running")
    kinds = (
        (Problem.cancel_requested_at, is_open & Problem.cancel_requested_at.is_not(None)),
        (Problem.deadline_at, is_open & (Problem.deadline_at <= now)),
        (Problem.due_at, _has_status(Problem, "running") & (Problem.due_at <= now)),
    )
    due = union_all(
        *(
            select(Problem.id, since.label("since")).where(found).order_by(since).limit(candidates).subquery().select()
            for since, found in kinds
        )
    ).subquery("due")
    since = func.min(due.c.since)
    chosen = (
        select(due.c.id, since.label("since"))
        .group_by(due.c.id)
        .order_by(since, due.c.id)
        .limit(candidates)
        .cte("chosen")
    )
    return (
        select(*_DUE)
        .join(chosen, chosen.c.id == Problem.id)
        .where(is_open)
        .order_by(chosen.c.since, chosen.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True, of=Problem)
    )


_DUE = (Problem.id, Problem.cancel_requested_at.is_not(None))
_COUNT = {
    status: select(func.count()).select_from(Problem).where(_has_status(Problem, status))
    for status in (Status.QUEUED, Status.RUNNING)
}
_NEXT_QUEUED = _next_queued()
_FIND_ATTENTION = _find_attention()
_SEEN = insert(Process)
_RECORD_PROCESSES = _SEEN.on_conflict_do_update(
    index_elements=["name"],
    set_={"role": _SEEN.excluded.role, "model": _SEEN.excluded.model, "seen_at": _SEEN.excluded.seen_at},
    where=Process.seen_at < _SEEN.excluded.seen_at,
)
