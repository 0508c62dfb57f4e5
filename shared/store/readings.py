"""Reads what users and auditors look at. Every figure comes from a stored row."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import column, func, select, table, text, tuple_
from sqlalchemy.orm import Session

from shared.domain.values import Action, Ledger
from shared.errors import PermanentError
from shared.store.tables import Batch, DecisionRow, Problem, Process, StepRow


class BadCursor(PermanentError):
    """The cursor is not one that a listing gave; leave it out to begin at the start."""

    code = "bad_cursor"


@dataclass(frozen=True, slots=True)
class ProblemReading:
    """A problem with what is counted over its steps."""

    problem: Problem
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
    """One page of a listing, newest first."""

    items: Sequence[ProblemReading]
    next_cursor: str | None


_STEPS = select(func.count()).where(StepRow.problem_id == Problem.id).scalar_subquery()
_ESCALATED = (
    select(func.count())
    .where(DecisionRow.problem_id == Problem.id, DecisionRow.action == Action.ESCALATE)
    .scalar_subquery()
)
_LEDGER = tuple(each.name for each in fields(Ledger))
_AUDIT = table("audit", column("problem_id"), column("step"))


def read_problem(session: Session, problem_id: UUID) -> ProblemReading | None:
    """Read one problem."""
    row = session.execute(select(Problem, _STEPS, _ESCALATED).where(Problem.id == problem_id)).first()
    return ProblemReading(*row) if row else None


def read_status(session: Session, problem_id: UUID) -> str | None:
    """Read where one problem stands."""
    return session.scalar(select(Problem.status).where(Problem.id == problem_id))


def list_problems(session: Session, wanted: ProblemFilter, *, limit: int, cursor: str | None) -> ProblemPage:
    """List problems, newest first; those submitted meanwhile do not shift the pages.

    Raises:
        BadCursor: No listing gave this cursor.
    """
    query = select(Problem, _STEPS, _ESCALATED).order_by(Problem.created_at.desc(), Problem.id.desc())
    if wanted.status is not None:
        query = query.where(Problem.status == wanted.status)
    if wanted.policy is not None:
        query = query.where(Problem.policy == wanted.policy)
    if wanted.batch_id is not None:
        query = query.where(Problem.batch_id == wanted.batch_id)
    if cursor is not None:
        query = query.where(tuple_(Problem.created_at, Problem.id) < tuple_(*_read_cursor(cursor)))
    rows = session.execute(query.limit(limit + 1)).all()
    items = [ProblemReading(*row) for row in rows[:limit]]
    return ProblemPage(items, _make_cursor(items[-1].problem) if len(rows) > limit else None)


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
    """Read one batch with its sums."""
    batch = session.get(Batch, batch_id)
    if batch is None:
        return None
    inside = Problem.batch_id == batch_id
    sums = session.execute(
        select(*(func.coalesce(func.sum(getattr(Problem, name)), 0).label(name) for name in _LEDGER)).where(inside)
    ).one()
    members = select(Problem.id).where(inside)
    escalated = DecisionRow.action == Action.ESCALATE
    return BatchReading(
        batch=batch,
        statuses=_counts(session.execute(select(Problem.status, func.count()).where(inside).group_by(Problem.status))),
        verdicts=_counts(
            session.execute(
                select(Problem.verdict, func.count())
                .where(inside, Problem.verdict.is_not(None))
                .group_by(Problem.verdict)
            )
        ),
        ledger={name: int(getattr(sums, name)) for name in _LEDGER},
        steps=session.scalar(select(func.count()).where(StepRow.problem_id.in_(members))) or 0,
        escalated_steps=session.scalar(select(func.count()).where(DecisionRow.problem_id.in_(members), escalated)) or 0,
    )


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


def _counts(rows: Any) -> dict[str, int]:
    return {row[0]: row[1] for row in rows}


def _make_cursor(problem: Problem) -> str:
    raw = json.dumps([problem.created_at.isoformat(), str(problem.id)]).encode()
    return base64.urlsafe_b64encode(raw).decode()


def _read_cursor(cursor: str) -> tuple[datetime, UUID]:
    try:
        created_at, problem_id = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        # To UTC: a moment without a zone is none of ours, and one at either end of time does not fit.
        moment = datetime.fromisoformat(created_at)
        if moment.tzinfo is None:
            raise BadCursor
        return moment.astimezone(UTC), UUID(problem_id)
    except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error) as error:
        raise BadCursor from error
