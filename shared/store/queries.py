"""Queries for users and auditors. Every figure comes from a stored row.

A query takes the tenant and finds only that tenant's rows. Queries without a tenant take the id of a problem that the
caller has checked with `read_problem` or `read_status`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from sqlalchemy import Row, Select, exists, func, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session, defer, with_expression

from shared.domain.ledger import Ledger
from shared.store.cursors import BadCursor, make_cursor, read_cursor
from shared.store.policy_tables import PolicyVersionRow
from shared.store.process_table import Process
from shared.store.rows import LEDGER_COLUMNS
from shared.store.shadow_tables import ShadowDecisionRow
from shared.store.tables import AuditRow, Batch, DecisionRow, Problem, StepRow

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing."""

    items: Sequence[T]
    next_cursor: str | None
    """Cursor of the next page; `None` on the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemFilter:
    """Conditions on the problems of a listing."""

    status: str | None = None
    policy: str | None = None
    arm: str | None = None
    batch_id: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Sums over problems of a batch."""

    size: int
    statuses: Mapping[str, int]
    verdicts: Mapping[str, int]
    ledger: Ledger
    step_count: int
    escalation_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """A batch with the sums over its problems, and over those of each arm."""

    batch: Batch
    sums: Sums
    arms: Mapping[str, Sums]
    """Sums by the name of the arm, in the order of the names; empty for a batch without a split."""


HIDDEN: Final = (
    Problem.request_count,
    Problem.oldest_request,
    Problem.attempts,
    Problem.pending,
    Problem.due_at,
    Problem.is_inbox_pruned,
)
"""Working columns of orchestrators. Undecided drafts are most of a running problem's row."""

_NEWEST: Final = UUID(int=2**128 - 1)
"""Comes after all ids."""

_MODELS = (  # Not of all steps, which would be most of what a listing reads.
    select(func.array_agg(StepRow.model))
    .where(StepRow.problem_id == Problem.id, StepRow.step.in_((0, Problem.step_count - 1)))
    .scalar_subquery()
)
_SHOWN = select(Problem).options(
    *(defer(each, raiseload=True) for each in HIDDEN), with_expression(Problem.models, _MODELS)
)
_SUMMED: Final = ("step_count", "escalation_count", *LEDGER_COLUMNS)
_SUMS = select(
    Problem.status,
    Problem.verdict,
    Problem.arm,
    func.count().label("problems"),
    *(func.sum(getattr(Problem, name)).label(name) for name in _SUMMED),
).group_by(Problem.status, Problem.verdict, Problem.arm)


def read_problem(session: Session, tenant_id: UUID, problem_id: UUID) -> Problem | None:
    """Read a problem. Its `HIDDEN` columns are not loaded, and raise if they are read."""
    return session.scalar(_SHOWN.where(Problem.tenant_id == tenant_id, Problem.id == problem_id))


def read_problems(session: Session, problem_ids: Collection[UUID]) -> Mapping[UUID, Problem]:
    """Read problems that the caller has checked, by their ids; `HIDDEN` columns as in `read_problem`."""
    return {each.id: each for each in session.scalars(_SHOWN.where(Problem.id.in_(problem_ids)))}


def read_status(session: Session, tenant_id: UUID, problem_id: UUID) -> str | None:
    """Read the status of a problem."""
    return session.scalar(select(Problem.status).where(Problem.tenant_id == tenant_id, Problem.id == problem_id))


def list_problems(
    session: Session, tenant_id: UUID, wanted: ProblemFilter, *, limit: int, cursor: str | None
) -> Page[Problem]:
    """List problems, newest first. New submissions do not shift the pages.

    Raises:
        BadCursor: The cursor is not one of this listing.
    """
    if wanted.batch_id is not None:
        return _list_batch_backwards(session, tenant_id, wanted, wanted.batch_id, limit=limit, cursor=cursor)
    before = _NEWEST if cursor is None else _read_id("problems", cursor)
    # The indexes of arms end with the policy: it is compared there, without a look at the rows.
    first = (Problem.policy, wanted.policy) if wanted.arm is None else (Problem.arm, wanted.arm)
    shared = [(column, value) for column, value in (first, (Problem.status, wanted.status)) if value is not None]
    query = _before(_SHOWN, (Problem.tenant_id, tenant_id), *shared, (Problem.id, before))
    if wanted.arm is not None:
        # The planner does not conclude from ranges that the arm is known, as its indexes require.
        query = query.where(Problem.arm.is_not(None))
        if wanted.policy is not None:
            query = query.where(Problem.policy == wanted.policy)
    return _page(session, query, limit, lambda last: make_cursor("problems", str(last.id)))


def list_batch_problems(
    session: Session, tenant_id: UUID, batch_id: UUID, *, limit: int, cursor: str | None
) -> Page[Problem]:
    """List the problems of a batch in the order of their submission.

    Raises:
        BadCursor: The cursor is not one of this listing.
    """
    listing = f"batch {batch_id}"
    query = _SHOWN.where(Problem.tenant_id == tenant_id, Problem.batch_id == batch_id).order_by(Problem.batch_index)
    if cursor is not None:
        query = query.where(Problem.batch_index > _read_number(listing, cursor))
    return _page(session, query, limit, lambda last: make_cursor(listing, _index(last)))


def list_steps(session: Session, problem_id: UUID, *, limit: int, cursor: str | None) -> Page[StepRow]:
    """List the accepted steps of a problem.

    Raises:
        BadCursor: The cursor is not one of this listing.
    """
    listing = f"steps {problem_id}"
    query = select(StepRow).where(StepRow.problem_id == problem_id).order_by(StepRow.step)
    if cursor is not None:
        query = query.where(StepRow.step > _read_number(listing, cursor))
    return _page(session, query, limit, lambda last: make_cursor(listing, last.step))


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


def has_batch(session: Session, tenant_id: UUID, batch_id: UUID) -> bool:
    """Tell whether a batch exists."""
    return bool(session.scalar(select(exists().where(Batch.tenant_id == tenant_id, Batch.id == batch_id))))


def list_batch_ids(session: Session, tenant_id: UUID, batch_id: UUID) -> Sequence[UUID]:
    """List the ids of a batch's problems in the order of their submission."""
    query = select(Problem.id).where(Problem.tenant_id == tenant_id, Problem.batch_id == batch_id)
    return session.scalars(query.order_by(Problem.batch_index)).all()


def read_batch(session: Session, tenant_id: UUID, batch_id: UUID) -> BatchSummary | None:
    """Read a batch with its sums, all as of one moment."""
    batch = session.scalar(select(Batch).where(Batch.tenant_id == tenant_id, Batch.id == batch_id))
    if batch is None:
        return None
    groups = session.execute(_SUMS.where(Problem.batch_id == batch_id)).all()
    names = sorted({group.arm for group in groups if group.arm is not None})
    arms = {name: _sum([group for group in groups if group.arm == name]) for name in names}
    return BatchSummary(batch=batch, sums=_sum(groups), arms=arms)


def _sum(groups: Sequence[Row[Any]]) -> Sums:
    sums = {name: sum(int(getattr(group, name)) for group in groups) for name in _SUMMED}
    return Sums(
        size=sum(group.problems for group in groups),
        statuses=_count_by("status", groups),
        verdicts=_count_by("verdict", groups),
        ledger=Ledger(**{name: sums[name] for name in LEDGER_COLUMNS}),
        step_count=sums["step_count"],
        escalation_count=sums["escalation_count"],
    )


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
        query = query.where(PolicyVersionRow.version < _read_number(listing, cursor))
    return _page(session, query, limit, lambda last: make_cursor(listing, last.version))


def list_processes(session: Session) -> Sequence[Process]:
    """List the processes of the service that sent heartbeats."""
    return session.scalars(select(Process).order_by(Process.role, Process.name)).all()


def read_clock(session: Session) -> datetime:
    """Read the database's time."""
    now: datetime = session.execute(select(func.now())).scalar_one()
    return now


def _count_by(name: str, groups: Sequence[Row[Any]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for group in groups:
        if (value := getattr(group, name)) is not None:
            counts[value] += group.problems
    return dict(counts)


def _before(query: Select[Problem], *place: tuple[InstrumentedAttribute[Any], object]) -> Select[Problem]:
    """Select the rows before a place in an index that share all values but the last, in descending order.

    Ranges rather than equality: with equality the planner knows that the order is the one of the ids, and may read the
    primary key backwards through any number of rows of other tenants and statuses.
    """
    columns = [column for column, _ in place]
    values = [value for _, value in place]
    return query.where(tuple_(*columns) < tuple_(*values), tuple_(*columns[:-1]) >= tuple_(*values[:-1])).order_by(
        *(column.desc() for column in columns)
    )


def _list_batch_backwards(
    session: Session, tenant_id: UUID, wanted: ProblemFilter, batch_id: UUID, *, limit: int, cursor: str | None
) -> Page[Problem]:
    """List problems of a batch, newest first: by their index, whose order is the one of their ids."""
    listing = f"problems of {batch_id}"
    query = _SHOWN.where(Problem.tenant_id == tenant_id, Problem.batch_id == batch_id)
    if wanted.status is not None:
        query = query.where(Problem.status == wanted.status)
    if wanted.policy is not None:
        query = query.where(Problem.policy == wanted.policy)
    if wanted.arm is not None:
        query = query.where(Problem.arm == wanted.arm)
    if cursor is not None:
        query = query.where(Problem.batch_index < _read_number(listing, cursor))
    query = query.order_by(Problem.batch_index.desc())
    return _page(session, query, limit, lambda last: make_cursor(listing, _index(last)))


Numbered = TypeVar("Numbered", DecisionRow, AuditRow)


def _list_by_number(
    session: Session, kind: type[Numbered], problem_id: UUID, *, limit: int, cursor: str | None
) -> Page[Numbered]:
    listing = f"{kind.__tablename__} {problem_id}"
    query = select(kind).where(kind.problem_id == problem_id).order_by(kind.number)
    if cursor is not None:
        query = query.where(kind.number > _read_number(listing, cursor))
    return _page(session, query, limit, lambda last: make_cursor(listing, last.number))


def _page(session: Session, query: Select[T], limit: int, mark: Callable[[T], str]) -> Page[T]:
    """Read a page and one row more, which tells whether another page follows; `mark` makes the last row's cursor."""
    rows = session.scalars(query.limit(limit + 1)).all()
    items = rows[:limit]
    return Page(items, mark(items[-1]) if len(rows) > limit else None)


def _index(problem: Problem) -> int:
    assert problem.batch_index is not None, "the query selects problems of a batch"
    return problem.batch_index


def _read_number(listing: str, cursor: str) -> int:
    (number,) = read_cursor(listing, cursor, int)
    return int(number)


def _read_id(listing: str, cursor: str) -> UUID:
    (written,) = read_cursor(listing, cursor, str)
    try:
        return UUID(written)
    except ValueError as error:
        raise BadCursor from error
