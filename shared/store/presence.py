"""Which workers are there, and which problems have to learn that a role is away or back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    func,
    literal,
    literal_column,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from shared.domain.roles import Author, WorkerRole
from shared.store.port import Due, SeenProcess
from shared.store.process_table import Process
from shared.store.tables import Problem

_ROLES = [role.value for role in WorkerRole]


def read_workers(connection: Connection) -> Sequence[SeenProcess]:
    """Read the newest heartbeat of each worker process."""
    with Session(connection) as session:
        return [
            SeenProcess(
                row.name,
                role=row.role,
                model=row.model,
                seen_at=row.seen_at,
                unfit=row.unfit,
                clock_ahead_s=row.clock_ahead_s,
                completes_prefixes=row.completes_prefixes,
            )
            for row in session.scalars(_READ_WORKERS)
        ]


def find_untold(connection: Connection, away: Collection[WorkerRole], *, limit: int) -> list[Due]:
    """Find running problems that do not know that a role is away, or that one is back; longest running first.

    They are searched among the running problems, which the window bounds. Those that another transaction has locked
    are left out; a later search finds them.
    """
    found = connection.execute(_FIND_UNTOLD, {"away": sorted(role.value for role in away), "limit": limit})
    return [Due(*row) for row in found]


def count_waiting(connection: Connection) -> dict[str, int]:
    """Count the running problems that wait for each role; those that wait for two count twice."""
    return {role.value: connection.scalar(_COUNT_WAITING[role]) or 0 for role in WorkerRole}


def _needs(role: WorkerRole) -> ColumnElement[bool]:
    """Select the problems that need a role, as `shared.machine.state.needed_roles` says."""
    author: ColumnElement[str] = Problem.request["author"].astext
    if role is not WorkerRole.PRM:
        return author == role.value
    is_scored = and_(
        author == Author.SMALL.value, func.coalesce(Problem.request["skips_prm"].astext, "false") == "false"
    )
    return and_(Problem.options["plan"]["scores"].astext == "true", or_(Problem.request.is_(None), is_scored))


def is_waiting() -> ColumnElement[bool]:
    """Select the running problems that wait for a role, as `shared.machine.state.State.waits_for` says."""
    return or_(*(and_(Problem.absences.has_key(role.value), _needs(role)) for role in WorkerRole))


def _find_untold() -> Select[UUID, bool]:
    away = bindparam("away", type_=ARRAY(Text()))
    misses = [
        and_(literal(role.value) == any_(away), _needs(role), ~Problem.absences.has_key(role.value))
        for role in WorkerRole
    ]
    outdated: ColumnElement[Any] = Problem.absences.op("-", return_type=JSONB())(away)
    return (
        select(Problem.id, Problem.cancel_requested_at.is_not(None))
        .where(_IS_RUNNING, or_(*misses, outdated != literal_column("'{}'::jsonb")))
        # By the id alone, the planner might walk the primary key through all problems that have ended.
        .order_by(Problem.started_at, Problem.id)
        .limit(bindparam("limit", type_=Problem.batch_index.type))
        .with_for_update(skip_locked=True, of=Problem)
    )


_IS_RUNNING = Problem.status == literal_column("'running'")
_COUNT_WAITING = {
    role: select(func.count())
    .select_from(Problem)
    .where(_IS_RUNNING, Problem.absences.has_key(role.value), _needs(role))
    for role in WorkerRole
}
_READ_WORKERS = select(Process).where(Process.role.in_(_ROLES)).order_by(Process.name)
_FIND_UNTOLD = _find_untold()
