"""Reads what users and auditors look at. Every figure comes from a stored row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, column, exists, func, select, table, text, tuple_
from sqlalchemy.orm import Session, defer

from shared.domain.decisions import Action
from shared.domain.ledger import Ledger
from shared.store.cursors import BadCursor, make_cursor, read_cursor
from shared.store.tables import Batch, DecisionRow, Problem, Process, StepRow


@dataclass(frozen=True, slots=True)
class ProblemReading:
    """A problem with what is counted over its steps."""

    problem: Problem
    """Holds what is shown; the columns that orchestrators work with raise if they are read."""
    steps: int
    escalated_steps: int


@dataclass(frozen=True, slots=True)
class BatchReading:
    """A batch with what is counted over its problems."""

    batch: Batch
    statuses: Mapping[str, int]
    verdicts: Mapping[str, int]
    ledger: Mapping[str, int]
    steps: int
    escalated_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemFilter:
    """Which problems a listing shows."""

    status: str | None = None
    policy: str | None = None
    batch_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class ProblemPage:
    """One page of a listing."""

    items: Sequence[ProblemReading]
    next_cursor: str | None


_STEPS = select(func.count()).where(StepRow.problem_id == Problem.id).scalar_subquery()
_ESCALATED = (
    select(func.count())
    .where(DecisionRow.problem_id == Problem.id, DecisionRow.action == Action.ESCALATE)
    .scalar_subquery()
)
_ALONE = -1
"""Stands for the index in its batch of a problem that has no batch: nothing in SQL is less than null."""
_PLACE = (Problem.created_at, func.coalesce(Problem.batch_index, _ALONE), Problem.id)
"""Orders all problems. Those of a batch share one moment, that of their transaction: their indexes order them."""
_LEDGER = tuple(each.name for each in fields(Ledger))
_WORKING = (
    Problem.idempotency_key,
    Problem.request_digest,
    Problem.request,
    Problem.request_count,
    Problem.oldest_request,
    Problem.attempts,
    Problem.pending,
    Problem.due_at,
)
"""What nobody is shown: drafts that wait for their turn are most of a running problem's row."""
_SHOWN = select(Problem, _STEPS, _ESCALATED).options(*(defer(each, raiseload=True) for each in _WORKING))
# Steps are counted problem by problem: a join reads all decisions there are, once the planner thinks a batch large.
_SUMS = select(
    Problem.status,
    Problem.verdict,
    func.count().label("problems"),
    func.sum(_STEPS).label("steps"),
    func.sum(_ESCALATED).label("escalated_steps"),
    *(func.sum(getattr(Problem, name)).label(name) for name in _LEDGER),
).group_by(Problem.status, Problem.verdict)
_AUDIT = table("audit", column("problem_id"), column("step"))


def read_problem(session: Session, problem_id: UUID) -> ProblemReading | None:
    """Read one problem."""
    row = session.execute(_SHOWN.where(Problem.id == problem_id)).first()
    return ProblemReading(*row) if row else None


def read_status(session: Session, problem_id: UUID) -> str | None:
    """Read where one problem stands."""
    return session.scalar(select(Problem.status).where(Problem.id == problem_id))


def list_problems(session: Session, wanted: ProblemFilter, *, limit: int, cursor: str | None) -> ProblemPage:
    """List problems, newest first, the last one of a batch before the others; arrivals do not shift the pages.

    Raises:
        BadCursor: This listing gave no such cursor.
    """
    # In a batch, all of one moment, the index alone gives the same order, and finds an old batch without a look at all
    # that came after it.
    order = _PLACE if wanted.batch_id is None else (Problem.batch_index,)
    query = _SHOWN.order_by(*(each.desc() for each in order))
    if wanted.status is not None:
        query = query.where(Problem.status == wanted.status)
    if wanted.policy is not None:
        query = query.where(Problem.policy == wanted.policy)
    if wanted.batch_id is not None:
        query = query.where(Problem.batch_id == wanted.batch_id)
    if cursor is not None:
        query = query.where(tuple_(*_PLACE) < tuple_(*_read_place(cursor)))
    return _page(session, query, limit=limit, mark=_mark_place)


def list_batch_problems(session: Session, batch_id: UUID, *, limit: int, cursor: str | None) -> ProblemPage:
    """List the problems of a batch, in the order of their submission.

    Raises:
        BadCursor: The listing of this batch gave no such cursor.
    """
    listing = f"batch {batch_id}"
    query = _SHOWN.where(Problem.batch_id == batch_id).order_by(Problem.batch_index)
    if cursor is not None:
        (after,) = read_cursor(listing, cursor, int)
        query = query.where(Problem.batch_index > after)
    return _page(session, query, limit=limit, mark=lambda last: make_cursor(listing, _index(last)))


def list_steps(session: Session, problem_id: UUID, *, limit: int, after: int) -> Sequence[StepRow]:
    """List a problem's accepted steps from the one after `after` on."""
    query = select(StepRow).where(StepRow.problem_id == problem_id, StepRow.step > after)
    return session.scalars(query.order_by(StepRow.step).limit(limit)).all()


def list_decisions(session: Session, problem_id: UUID, *, limit: int, after: int) -> Sequence[DecisionRow]:
    """List a problem's decisions from the one after step `after` on."""
    query = select(DecisionRow).where(DecisionRow.problem_id == problem_id, DecisionRow.step > after)
    return session.scalars(query.order_by(DecisionRow.step).limit(limit)).all()


def read_audit(session: Session, problem_id: UUID, *, limit: int, after: int) -> list[dict[str, Any]]:
    """Read the auditors' view of a problem: one row a step, every column of the view."""
    query = select(text("audit.*")).select_from(_AUDIT)
    query = query.where(_AUDIT.c.problem_id == problem_id, _AUDIT.c.step > after).order_by(_AUDIT.c.step).limit(limit)
    return [dict(row) for row in session.execute(query).mappings()]


def read_batch(session: Session, batch_id: UUID) -> BatchReading | None:
    """Read one batch with its sums, all of one moment."""
    batch = session.get(Batch, batch_id)
    if batch is None:
        return None
    groups = session.execute(_SUMS.where(Problem.batch_id == batch_id)).all()
    return BatchReading(
        batch=batch,
        statuses=_count_by("status", groups),
        verdicts=_count_by("verdict", groups),
        ledger={name: _add_up(name, groups) for name in _LEDGER},
        steps=_add_up("steps", groups),
        escalated_steps=_add_up("escalated_steps", groups),
    )


def has_batch(session: Session, batch_id: UUID) -> bool:
    """Tell whether there is a batch with this id."""
    return bool(session.scalar(select(exists().where(Batch.id == batch_id))))


def list_batch_ids(session: Session, batch_id: UUID) -> Sequence[UUID]:
    """List the ids of a batch's problems, in the order of their submission."""
    return session.scalars(select(Problem.id).where(Problem.batch_id == batch_id).order_by(Problem.batch_index)).all()


def list_processes(session: Session) -> Sequence[Process]:
    """List every process of the service that was heard of."""
    return session.scalars(select(Process).order_by(Process.role, Process.name)).all()


def read_clock(session: Session) -> datetime:
    """Read the database's time."""
    now: datetime = session.execute(select(func.now())).scalar_one()
    return now


def _count_by(name: str, groups: Sequence[Row[Any]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for group in groups:
        counts[getattr(group, name)] += group.problems
    return {value: count for value, count in counts.items() if value is not None}


def _add_up(name: str, groups: Sequence[Row[Any]]) -> int:
    return sum(int(getattr(group, name)) for group in groups)


def _page(session: Session, query: Select[Any], *, limit: int, mark: Callable[[Problem], str]) -> ProblemPage:
    """Read one page, and one row past it, to know whether there is another; `mark` makes the cursor of the last row."""
    rows = session.execute(query.limit(limit + 1)).all()
    items = [ProblemReading(*row) for row in rows[:limit]]
    return ProblemPage(items, mark(items[-1].problem) if len(rows) > limit else None)


def _index(problem: Problem) -> int:
    return _ALONE if problem.batch_index is None else problem.batch_index


def _mark_place(problem: Problem) -> str:
    return make_cursor("problems", problem.created_at.isoformat(), _index(problem), str(problem.id))


def _read_place(cursor: str) -> tuple[datetime, int, UUID]:
    created_at, index, problem_id = read_cursor("problems", cursor, str, int, str)
    try:
        # To UTC: a moment without a zone is none of ours, and one at either end of time does not fit.
        moment = datetime.fromisoformat(created_at)
        if moment.tzinfo is None:
            raise BadCursor
        return moment.astimezone(UTC), index, UUID(problem_id)
    except (ValueError, OverflowError) as error:
        raise BadCursor from error
