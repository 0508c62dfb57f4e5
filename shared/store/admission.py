"""Searches of the orchestrator between messages: problems to start, to end, or to request again; and processes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    CompoundSelect,
    Connection,
    Select,
    TableValuedAlias,
    Text,
    any_,
    bindparam,
    delete,
    func,
    literal_column,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased

from shared.domain.roles import WorkerRole
from shared.domain.status import Status
from shared.machine.admitting import room_of
from shared.store.access_tables import TenantRow
from shared.store.port import Due, SeenProcess
from shared.store.presence import is_waiting
from shared.store.process_table import Process
from shared.store.startable import KINDS, is_of_kind, list_startable
from shared.store.tables import Problem

_ADMISSION_LOCK: Final = 0x7472_696D
"""Advisory lock: one orchestrator at a time admits, so that all replicas keep to one window."""

BROKER: Final = "broker"
"""Name of the broker among the processes: orchestrators record it while they reach it."""

_MAX_PASSED: Final = 20_000
"""Maximum number of problems of a kind that admission passes over, so that they fit into a hash table of the server."""

PROCESS_KEPT: Final = timedelta(hours=1)
"""Time after which a silent process is forgotten."""


def _has_status(problem: type[Problem], *statuses: str) -> ColumnElement[bool]:
    """Compare with literals: a partial index is used only if the statement proves its condition."""
    listed: list[ColumnElement[str]] = [literal_column(f"'{status}'") for status in statuses]
    return problem.status == listed[0] if len(listed) == 1 else problem.status.in_(listed)


def next_queued(
    connection: Connection,
    *,
    now: datetime,
    window: int,
    limit: int,
    away: Collection[WorkerRole] = (),
    max_running: int | None = None,
) -> list[UUID]:
    """Find the queued problems that fit into the window beside the running ones, fairly between tenants.

    No tenant gets more than its limit of running problems, which is `max_running` for those that have none.
    The window holds across replicas until the transaction ends. A replica gets an empty list while another one admits.
    Problems that are locked by another transaction, to be cancelled or past their deadline are left out, and the next
    ones take their place. So are those that `shared.machine.admitting` has wait while roles are away.
    """
    if not connection.scalar(select(func.pg_try_advisory_xact_lock(_ADMISSION_LOCK))):
        return []
    running = connection.scalar(_COUNT[Status.RUNNING]) or 0
    waiting = connection.scalar(_COUNT_WAITING) or 0 if away else 0
    room = min(room_of(window, running=running, waiting=waiting), limit)
    if room == 0:
        return []
    parameters = {"now": now, "room": room, "candidates": _count_candidates(room), "max_running": max_running}
    if not away:
        return list(connection.scalars(_NEXT_QUEUED, parameters))
    kinds = list_startable(away, is_crowded=waiting >= window)
    return list(connection.scalars(_NEXT_QUEUED_OF_KINDS, {**parameters, **kinds}))


def find_attention(connection: Connection, *, now: datetime, limit: int) -> list[Due]:
    """Find problems that are to be cancelled, past their deadline, or overdue; each once.

    The three kinds take turns, each with its longest due first.
    Problems that another transaction has locked are left out, and the next ones take their place.
    """
    found = connection.execute(_FIND_ATTENTION, {"now": now, "limit": limit, "candidates": _count_candidates(limit)})
    return [Due(*row) for row in found]


def count_open(connection: Connection) -> dict[Status, int]:
    """Count the queued and the running problems, each in their partial index."""
    return {status: connection.scalar(_COUNT[status]) or 0 for status in (Status.QUEUED, Status.RUNNING)}


def record_processes(connection: Connection, seen: Iterable[SeenProcess]) -> None:
    """Record heartbeats, in the order of names, so that two transactions cannot deadlock.

    One whose row another session has locked is dropped: the process sends another one soon.
    """
    known = sorted(seen, key=lambda each: each.name)
    locked = set(connection.scalars(_FIND_LOCKED, {"names": [each.name for each in known]}))
    rows = [_row(each) for each in known if each.name not in locked]
    if rows:
        connection.execute(_RECORD_PROCESSES, rows)


def _row(seen: SeenProcess) -> dict[str, Any]:
    unfit = seen.unfit
    return {
        "name": seen.name,
        "role": seen.role,
        "model": seen.model,
        "seen_at": seen.seen_at,
        "unfit_code": unfit and unfit.code,
        "unfit_detail": unfit and unfit.detail,
        "unfit_since": unfit and unfit.since,
        "clock_ahead_s": seen.clock_ahead_s,
        "completes_prefixes": seen.completes_prefixes,
    }


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
    tenants = select(first.c.tenant_id).cte("queued_tenants", recursive=True)
    following = (
        select(Problem.tenant_id)
        .where(_has_status(Problem, "queued"), Problem.tenant_id > tenants.c.tenant_id)
        .order_by(Problem.tenant_id)
        .limit(1)
        .scalar_subquery()
    )
    return tenants.union_all(select(following).where(tenants.c.tenant_id.is_not(None)))


def _needing_end(now: ColumnElement[datetime]) -> CompoundSelect[UUID]:
    """Select the open problems that are to be cancelled or are past their deadline, each kind along its index."""
    is_open = _has_status(Problem, "queued", "running")
    kinds = (
        (Problem.cancel_requested_at, Problem.cancel_requested_at.is_not(None)),
        (Problem.deadline_at, Problem.deadline_at <= now),
    )
    return union_all(
        *(select(Problem.id).where(is_open, found).order_by(since).limit(_MAX_PASSED) for since, found in kinds)
    )


def _queue_of(
    tenants: CTE, kinds: TableValuedAlias | None, *, now: ColumnElement[datetime], candidates: ColumnElement[int]
) -> Select[UUID]:
    """Select the oldest queued problems of each tenant, and of each kind, that may start."""
    waiting = aliased(Problem)
    return (
        select(waiting.id)
        .where(
            waiting.tenant_id == tenants.c.tenant_id,
            _has_status(waiting, "queued"),
            waiting.id.not_in(_needing_end(now)),
            *(is_of_kind(waiting, kinds) if kinds is not None else ()),
        )
        .order_by(waiting.id)
        .limit(candidates)
    )


def _running_by_tenant(*, without_waiting: bool) -> CTE:
    """Count the running problems of each tenant; those that wait for a role are left out if that is wanted."""
    return (
        select(Problem.tenant_id, func.count().label("problems"))
        .where(_has_status(Problem, "running"), *([~is_waiting()] if without_waiting else []))
        .group_by(Problem.tenant_id)
        .cte("running")
    )


def _next_queued(*, of_kinds: bool = False) -> Select[UUID]:
    """Select queued problems by turn: the number of the tenant's problems that run or are ahead in its queue.

    So tenants fill the window in equal parts, and a long queue delays only its own tenant. Turns past a tenant's limit
    are left out.
    """
    now = bindparam("now", type_=Problem.due_at.type)
    room, candidates, max_running = (
        bindparam(name, type_=Problem.batch_index.type) for name in ("room", "candidates", "max_running")
    )
    tenants, kinds = _queued_tenants(), KINDS if of_kinds else None
    running = _running_by_tenant(without_waiting=of_kinds)
    queue = _queue_of(tenants, kinds, now=now, candidates=candidates).lateral("queue")
    queued = tenants if kinds is None else tenants.join(kinds, true())
    place = func.row_number().over(partition_by=tenants.c.tenant_id, order_by=queue.c.id)
    turn = (func.coalesce(running.c.problems, 0) + place).label("turn")
    queues = queued.join(queue, true()).outerjoin(running, running.c.tenant_id == tenants.c.tenant_id)
    ranked = (
        select(queue.c.id, turn, func.coalesce(TenantRow.max_running, max_running).label("last_turn"))
        .select_from(queues.outerjoin(TenantRow, TenantRow.id == tenants.c.tenant_id))
        .subquery("ranked")
    )
    chosen = (
        select(ranked.c.id, ranked.c.turn)
        .where(or_(ranked.c.last_turn.is_(None), ranked.c.turn <= ranked.c.last_turn))
        .order_by(ranked.c.turn, ranked.c.id)
        .limit(candidates)
        .cte("chosen")
    )
    return (
        select(Problem.id)
        .join(chosen, chosen.c.id == Problem.id)
        .where(_has_status(Problem, "queued"))
        .order_by(chosen.c.turn, chosen.c.id)
        .limit(room)
        .with_for_update(skip_locked=True, of=Problem)
    )


def _find_attention() -> Select[UUID, bool]:
    """Select the longest due of each kind, each along its index.

    The kinds take turns, so thousands of deadlines that pass together hold up no cancellation and no overdue request.
    """
    now = bindparam("now", type_=Problem.due_at.type)
    limit, candidates = (bindparam(name, type_=Problem.batch_index.type) for name in ("limit", "candidates"))
    is_open = _has_status(Problem, "queued", "running")
    kinds = (
        (Problem.cancel_requested_at, is_open & Problem.cancel_requested_at.is_not(None)),
        (Problem.deadline_at, is_open & (Problem.deadline_at <= now)),
        (Problem.due_at, _has_status(Problem, "running") & (Problem.due_at <= now)),
    )
    ranked: list[Select[UUID, datetime, int]] = []
    for since, found in kinds:
        oldest = select(Problem.id, since.label("since")).where(found).order_by(since).limit(candidates).subquery()
        turn = func.row_number().over(order_by=oldest.c.since).label("turn")
        ranked.append(select(oldest.c.id, oldest.c.since, turn))
    due = union_all(*ranked).subquery("due")
    first, earliest = func.min(due.c.turn), func.min(due.c.since)
    chosen = (
        select(due.c.id, first.label("turn"), earliest.label("since"))
        .group_by(due.c.id)
        .order_by(first, earliest, due.c.id)
        .limit(candidates)
        .cte("chosen")
    )
    return (
        select(*_DUE)
        .join(chosen, chosen.c.id == Problem.id)
        .where(is_open)
        .order_by(chosen.c.turn, chosen.c.since, chosen.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True, of=Problem)
    )


_DUE = (Problem.id, Problem.cancel_requested_at.is_not(None))
_COUNT = {
    status: select(func.count()).select_from(Problem).where(_has_status(Problem, status))
    for status in (Status.QUEUED, Status.RUNNING)
}
_COUNT_WAITING = select(func.count()).select_from(Problem).where(_has_status(Problem, "running"), is_waiting())
_NEXT_QUEUED = _next_queued()
_NEXT_QUEUED_OF_KINDS = _next_queued(of_kinds=True)
_FIND_ATTENTION = _find_attention()
_NAMED = Process.name == any_(bindparam("names", type_=ARRAY(Text())))
_FREE = select(Process.name).where(_NAMED).order_by(Process.name).with_for_update(skip_locked=True).cte("free")
_FIND_LOCKED = select(Process.name).where(_NAMED, Process.name.not_in(select(_FREE.c.name)))
_SEEN = insert(Process)
_RECORD_PROCESSES = _SEEN.on_conflict_do_update(
    index_elements=["name"],
    set_={column.name: column for column in _SEEN.excluded if column.name != "name"},
    where=Process.seen_at < _SEEN.excluded.seen_at,
)
