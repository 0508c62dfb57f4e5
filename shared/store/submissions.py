"""Writes what users ask for: problems, batches, and the wish to cancel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.orm import Session

from shared.domain.options import Options
from shared.domain.status import Status
from shared.errors import PermanentError
from shared.policies.policy import Policy
from shared.store.database import wake_orchestrators
from shared.store.reasoning import options_values
from shared.store.tables import Batch, Problem


class IdempotencyConflict(PermanentError):
    """This Idempotency-Key was used for another request; use a new key, or send the same request again."""

    code = "idempotency_conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One problem, checked and complete."""

    question: str
    reference: str | None
    policy: Policy
    options: Options


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """What makes a repeated request the same one."""

    key: str
    digest: str
    """Of the request's content."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A row that a request stands for."""

    id: UUID
    is_new: bool
    """Whether this request made it, rather than an earlier one with the same key."""


def submit_problem(session: Session, submission: Submission, idempotency: Idempotency | None) -> Stored:
    """Queue one problem.

    Raises:
        IdempotencyConflict: The key stands for another request.
    """
    problem_id = uuid4()
    values = {
        "id": problem_id,
        "idempotency_key": idempotency and idempotency.key,
        "request_digest": idempotency and idempotency.digest,
        **_problem_values(submission),
    }
    stored = _insert_once(session, Problem, values, idempotency)
    if stored.is_new:
        wake_orchestrators(session, to="admit")
    return stored


def submit_batch(session: Session, submissions: Sequence[Submission], idempotency: Idempotency | None) -> Stored:
    """Queue many problems together: all of them or none.

    Raises:
        IdempotencyConflict: The key stands for another request.
    """
    values = {
        "id": uuid4(),
        "size": len(submissions),
        "idempotency_key": idempotency and idempotency.key,
        "request_digest": idempotency and idempotency.digest,
    }
    stored = _insert_once(session, Batch, values, idempotency)
    if stored.is_new:
        rows = [
            {"id": uuid4(), "batch_id": stored.id, "batch_index": index, **_problem_values(submission)}
            for index, submission in enumerate(submissions)
        ]
        session.execute(insert(Problem), rows)
        wake_orchestrators(session, to="admit")
    return stored


def request_cancel(session: Session, problem_id: UUID) -> bool:
    """Note that nobody waits for a problem any more; an orchestrator ends it. Does nothing if it has ended.

    Returns:
        Whether the problem was still open.
    """
    found = session.execute(
        update(Problem)
        .where(Problem.id == problem_id, Problem.status.in_([Status.QUEUED, Status.RUNNING]))
        .values(cancel_requested_at=func.coalesce(Problem.cancel_requested_at, func.now()))
        .returning(Problem.id)
    ).first()
    if found is not None:
        wake_orchestrators(session, to="cancel")
    return found is not None


def _insert_once(
    session: Session,
    table: type[Problem | Batch],
    values: dict[str, object],
    idempotency: Idempotency | None,
) -> Stored:
    """Insert a row, or find the one that the same key made, be it a moment ago in another transaction."""
    statement = postgres_insert(table).values(values)
    made = session.scalar(statement.on_conflict_do_nothing(index_elements=["idempotency_key"]).returning(table.id))
    if made is not None:
        return Stored(made, is_new=True)
    assert idempotency is not None
    known = session.execute(
        select(table.id, table.request_digest).where(table.idempotency_key == idempotency.key)
    ).one()
    if known.request_digest != idempotency.digest:
        raise IdempotencyConflict
    return Stored(known.id, is_new=False)


def _problem_values(submission: Submission) -> dict[str, object]:
    deadline_at: datetime | None = submission.options.deadline_at
    return {
        "question": submission.question,
        "reference": submission.reference,
        "policy": submission.policy.name,
        "policy_revision": submission.policy.revision,
        "policy_parameters": submission.policy.model_dump(mode="json"),
        "options": options_values(submission.options),
        "deadline_at": deadline_at,
    }
