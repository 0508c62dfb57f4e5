"""Queries for users and auditors. Every figure comes from a stored row.

A query takes the tenant and finds only that tenant's rows. Queries without a tenant take the id of a problem that the
caller has checked with `read_problem` or `read_status`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, TypeVar
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, defer, with_expression

from shared.store.cursors import make_cursor, read_cursor
from shared.store.policy_tables import PolicyVersionRow
from shared.store.process_table import Process
from shared.store.shadow_tables import ShadowDecisionRow
from shared.store.tables import AuditRow, DecisionRow, Problem, StepRow

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing."""

    items: Sequence[T]
    next_cursor: str | None
    """Cursor of the next page; `None` on the last one."""


HIDDEN: Final = (
    Problem.request_count,
    Problem.oldest_request,
    Problem.attempts,
    Problem.pending,
    Problem.due_at,
    Problem.is_inbox_pruned,
)
"""Working columns of orchestrators. Undecided drafts are most of a running problem's row."""

_MODELS = (  # Not of all steps, which would be most of what a listing reads.
    select(func.array_agg(StepRow.model))
    .where(StepRow.problem_id == Problem.id, StepRow.step.in_((0, Problem.step_count - 1)))
    .scalar_subquery()
)
SHOWN: Final = select(Problem).options(
    *(defer(each, raiseload=True) for each in HIDDEN), with_expression(Problem.models, _MODELS)
)
"""Selects what the API shows of problems."""


def read_problem(session: Session, tenant_id: UUID, problem_id: UUID) -> Problem | None:
    """Read a problem. Its `HIDDEN` columns are not loaded, and raise if they are read."""
    return session.scalar(SHOWN.where(Problem.tenant_id == tenant_id, Problem.id == problem_id))


def read_problems(session: Session, problem_ids: Collection[UUID]) -> Mapping[UUID, Problem]:
    """Read problems that the caller has checked, by their ids; `HIDDEN` columns as in `read_problem`."""
    return {each.id: each for each in session.scalars(SHOWN.where(Problem.id.in_(problem_ids)))}


def read_status(session: Session, tenant_id: UUID, problem_id: UUID) -> str | None:
    """Read the status of a problem."""
    return session.scalar(select(Problem.status).where(Problem.tenant_id == tenant_id, Problem.id == problem_id))


def list_steps(session: Session, problem_id: UUID, *, limit: int, cursor: str | None) -> Page[StepRow]:
    """List the accepted steps of a problem.

    Raises:
        BadCursor: The cursor is not one of this listing.
    """
    listing = f"steps {problem_id}"
    query = select(StepRow).where(StepRow.problem_id == problem_id).order_by(StepRow.step)
    if cursor is not None:
        query = query.where(StepRow.step > read_number(listing, cursor))
    return read_page(session, query, limit, lambda last: make_cursor(listing, last.step))


def list_steps_of(session: Session, problem_ids: Collection[UUID]) -> Mapping[UUID, Sequence[StepRow]]:
    """List all accepted steps of problems that the caller has checked, by the problem."""
    steps: dict[UUID, list[StepRow]] = {each: [] for each in problem_ids}
    query = select(StepRow).where(StepRow.problem_id.in_(problem_ids)).order_by(StepRow.problem_id, StepRow.step)
    for row in session.scalars(query) if problem_ids else ():
        steps[row.problem_id].append(row)
    return steps


def list_decisions(session: Session, problem_id: UUID, *, limit: int, cursor: str | None) -> Page[DecisionRow]:
    """List the decisions on a problem in the order in which they were taken.

    Raises:
        BadCursor: The cursor is not one of this listing.
    """
    return _list_by_number(session, DecisionRow, problem_id, limit=limit, cursor=cursor)


def list_audit(session: Session, problem_id: UUID, *, limit: int, cursor: str | None) -> Page[AuditRow]:
    """List the decisions on a problem, each beside the step that stands at its place now.

    Raises:
        BadCursor: The cursor is not one of this listing.
    """
    return _list_by_number(session, AuditRow, problem_id, limit=limit, cursor=cursor)


def list_shadow_decisions(session: Session, problem_id: UUID, numbers: Sequence[int]) -> Sequence[ShadowDecisionRow]:
    """List what a problem's shadows decided beside some consecutive decisions, in the order of both."""
    if not numbers:
        return ()
    row = ShadowDecisionRow
    query = select(row).where(row.problem_id == problem_id, row.number.between(numbers[0], numbers[-1]))
    return session.scalars(query.order_by(row.number, row.shadow)).all()


def list_policy_versions(
    session: Session, policy: str, *, is_default: bool | None = None, limit: int, cursor: str | None
) -> Page[PolicyVersionRow]:
    """List the versions of a policy without their arrays, newest first; by default all of them.

    Raises:
        BadCursor: The cursor is not one of this listing.
    """
    listing = f"versions {policy}"
    query = select(PolicyVersionRow).where(PolicyVersionRow.policy == policy).order_by(PolicyVersionRow.version.desc())
    if is_default is not None:
        query = query.where(PolicyVersionRow.is_default == is_default)
    if cursor is not None:
        query = query.where(PolicyVersionRow.version < read_number(listing, cursor))
    return read_page(session, query, limit, lambda last: make_cursor(listing, last.version))


def list_processes(session: Session) -> Sequence[Process]:
    """List the processes of the service that sent heartbeats."""
    return session.scalars(select(Process).order_by(Process.role, Process.name)).all()


def read_clock(session: Session) -> datetime:
    """Read the database's time."""
    now: datetime = session.execute(select(func.now())).scalar_one()
    return now


Numbered = TypeVar("Numbered", DecisionRow, AuditRow)


def _list_by_number(
    session: Session, kind: type[Numbered], problem_id: UUID, *, limit: int, cursor: str | None
) -> Page[Numbered]:
    listing = f"{kind.__tablename__} {problem_id}"
    query = select(kind).where(kind.problem_id == problem_id).order_by(kind.number)
    if cursor is not None:
        query = query.where(kind.number > read_number(listing, cursor))
    return read_page(session, query, limit, lambda last: make_cursor(listing, last.number))


def read_page(session: Session, query: Select[T], limit: int, mark: Callable[[T], str]) -> Page[T]:
    """Read a page and one row more, which tells whether another page follows; `mark` makes the last row's cursor."""
    rows = session.scalars(query.limit(limit + 1)).all()
    items = rows[:limit]
    return Page(items, mark(items[-1]) if len(rows) > limit else None)


def read_number(listing: str, cursor: str) -> int:
    """Decode a cursor that holds a number.

    Raises:
        BadCursor: The cursor is not one of this listing.
    """
    (number,) = read_cursor(listing, cursor, int)
    return int(number)
