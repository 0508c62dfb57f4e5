"""Writes what users submit: problems, batches, and requests to cancel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import func, insert, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from shared.domain.options import Options, PolicyChoice
from shared.domain.status import Status
from shared.errors import PermanentError
from shared.store import policy_versions
from shared.store.database import wake_orchestrators
from shared.store.rows import options_values
from shared.store.tables import Batch, IdempotencyKey, Problem


class IdempotencyConflict(PermanentError):
    """This Idempotency-Key was used for another request; use a new key, or send the same request again."""

    code = "idempotency_conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One problem, checked and complete."""

    question: str
    reference: str | None
    policy: PolicyChoice
    needs_version: bool = False
    """Whether the policy decides with an artefact: if the submitter named none, the default is chosen."""
    options: Options


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """Identifies a request, so that a retry returns the result of the first."""

    key: str
    digest: str
    """Digest of the request's content."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The row that a request created, now or earlier."""

    id: UUID
    is_new: bool
    """Whether this request created it, rather than an earlier one with the same key."""


def submit_problem(
    session: Session,
    tenant_id: UUID,
    submission: Submission,
    idempotency: Idempotency | None,
    *,
    silence_s: float,
) -> Stored:
    """Queue one problem.

    Args:
        session: The session.
        tenant_id: The submitter's tenant.
        submission: The problem.
        idempotency: Key and digest of the request, if it has a key.
        silence_s: Seconds without a heartbeat after which a model no longer counts for the choice of a version.

    Raises:
        IdempotencyConflict: The key belongs to another request.
        UnknownVersion, RetiredVersion, NoDefault: The policy has no version for the problem.
    """
    stored = _claim(session, tenant_id, "problem_id", idempotency)
    if stored.is_new:
        version = _Versions(session, silence_s).of(submission)
        session.execute(insert(Problem).values(id=stored.id, tenant_id=tenant_id, **_values(submission, version)))
        wake_orchestrators(session, to="admit")
    return stored


def submit_batch(
    session: Session,
    tenant_id: UUID,
    submissions: Sequence[Submission],
    idempotency: Idempotency | None,
    *,
    silence_s: float,
) -> Stored:
    """Queue many problems together: all of them or none; see `submit_problem`."""
    stored = _claim(session, tenant_id, "batch_id", idempotency)
    if stored.is_new:
        session.execute(insert(Batch).values(id=stored.id, tenant_id=tenant_id, size=len(submissions)))
        # Ids that one process makes rise, so listings show a batch in its order.
        shared, versions = {"tenant_id": tenant_id, "batch_id": stored.id}, _Versions(session, silence_s)
        rows = [
            {"id": uuid7(), "batch_index": index, **shared, **_values(submission, versions.of(submission))}
            for index, submission in enumerate(submissions)
        ]
        session.execute(insert(Problem), rows)
        wake_orchestrators(session, to="admit")
    return stored


def request_cancel(session: Session, tenant_id: UUID, problem_id: UUID) -> bool:
    """Record that a problem is to be cancelled; an orchestrator ends it. Does nothing if it has ended.

    Returns:
        Whether the problem was still open.
    """
    found = session.execute(
        update(Problem)
        .where(
            Problem.tenant_id == tenant_id,
            Problem.id == problem_id,
            Problem.status.in_([Status.QUEUED, Status.RUNNING]),
        )
        .values(cancel_requested_at=func.coalesce(Problem.cancel_requested_at, func.now()))
        .returning(Problem.id)
    ).first()
    if found is not None:
        wake_orchestrators(session, to="cancel")
    return found is not None


def _claim(
    session: Session, tenant_id: UUID, result: Literal["problem_id", "batch_id"], idempotency: Idempotency | None
) -> Stored:
    """Return a new id, or the id that an earlier request with this key created.

    A key that another transaction is inserting is awaited. The update that changes nothing returns the earlier row.
    """
    made = uuid7()
    if idempotency is None:
        return Stored(made, is_new=True)
    statement = postgres_insert(IdempotencyKey).values(
        {"tenant_id": tenant_id, "key": idempotency.key, "request_digest": idempotency.digest, result: made}
    )
    row = session.execute(
        statement.on_conflict_do_update(
            index_elements=["tenant_id", "key"], set_={"request_digest": IdempotencyKey.request_digest}
        ).returning(getattr(IdempotencyKey, result), IdempotencyKey.request_digest)
    ).one()
    stored_id: UUID | None
    stored_id, digest = row
    if stored_id is None or digest != idempotency.digest:
        raise IdempotencyConflict
    return Stored(stored_id, is_new=stored_id == made)


class _Versions:
    """Chooses the versions of policies for the problems of one request, each once."""

    def __init__(self, session: Session, silence_s: float) -> None:
        self._session = session
        self._silence_s = silence_s
        self._chosen: dict[tuple[str, int | None], int] = {}

    def of(self, submission: Submission) -> int | None:
        if not submission.needs_version:
            return None
        key = submission.policy.name, submission.policy.version
        if key not in self._chosen:
            running = policy_versions.running_models(self._session, silence_s=self._silence_s)
            self._chosen[key] = policy_versions.choose_version(self._session, *key, running=running)
        return self._chosen[key]


def _values(submission: Submission, policy_version: int | None) -> dict[str, Any]:
    return {
        "question": submission.question,
        "reference": submission.reference,
        "policy": submission.policy.name,
        "policy_revision": submission.policy.revision,
        "policy_parameters": dict(submission.policy.parameters),
        "policy_version": policy_version,
        "policy_wrappers": asdict(submission.policy.wrappers),
        "options": options_values(submission.options),
        "deadline_at": submission.options.deadline_at,
    }
