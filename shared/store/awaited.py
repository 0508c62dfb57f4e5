"""Problems that are submitted by requests which wait for their end: what a retry attaches to, and who may cancel.

Such a request has a row among the idempotency keys: under the client's key, or under one that its first try makes. A
retry finds it by the digest of the request. The request that attached last holds the problem; the time in the row is
the proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from shared.domain.status import Status
from shared.store.cancelling import request_cancel
from shared.store.submissions import Idempotency, Stored, Submission, submit_problem, submit_problems
from shared.store.tables import Base, IdempotencyKey, Problem

RETRIED_FOR: Final = timedelta(minutes=15)
"""Time for which a retry attaches to a problem of an earlier try. OpenAI's clients wait for 10 minutes by default, then
retry within seconds."""

_ATTACHABLE: Final = (Status.QUEUED, Status.RUNNING, Status.SUCCEEDED)

_LAST: Final = UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """Identifies a request that waits for its problem."""

    digest: str
    """Digest of the request as it was sent: the tries of one request have the same."""
    is_retry: bool
    """Whether its client has sent it before."""
    idempotency: Idempotency | None = None
    """The client's own key, which takes the place of the digest."""

    @property
    def is_first(self) -> bool:
        """Whether nothing that is stored can make it the same as an earlier one."""
        return self.idempotency is None and not self.is_retry


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What a request holds of the problem that it waits for. The newest hold decides whether it is cancelled."""

    tenant_id: UUID
    problem_id: UUID
    key: str
    since: datetime


def submit_awaited(
    session: Session,
    tenant_id: UUID,
    submission: Submission,
    tried: Try,
    *,
    problem_id: UUID,
    silence_s: float,
    max_queued: int | None = None,
) -> tuple[Stored, Hold]:
    """Queue a problem for a request that waits for it, or attach to the one that an earlier try queued.

    Args:
        session: The session.
        tenant_id: The submitter's tenant.
        submission: The problem.
        tried: The request.
        problem_id: Id that the problem gets if it is new, a UUIDv7.
        silence_s: As for `submit_problem`, which also has the errors.
        max_queued: As for `submit_problem`.
    """
    if tried.idempotency is not None:
        stored = submit_problem(
            session,
            tenant_id,
            submission,
            tried.idempotency,
            silence_s=silence_s,
            max_queued=max_queued,
            problem_id=problem_id,
        )
        return stored, _hold(session, tenant_id, tried.idempotency.key, stored.id)
    if tried.is_retry and (found := _find_earlier(session, tenant_id, tried.digest, problem_id)) is not None:
        key, earlier_id = found
        return Stored(earlier_id, is_new=False), _hold(session, tenant_id, key, earlier_id)
    tries = [(tenant_id, problem_id, submission, tried)]
    [made] = submit_first_tries(session, tries, silence_s=silence_s, max_queued=max_queued)
    return made


def submit_first_tries(
    session: Session,
    tries: Sequence[tuple[UUID, UUID, Submission, Try]],
    *,
    silence_s: float,
    max_queued: int | None = None,
) -> list[tuple[Stored, Hold]]:
    """Queue the problems of first tries together, each with its tenant and its id: all of them or none."""
    stored = submit_problems(session, [each[:3] for each in tries], silence_s=silence_s, max_queued=max_queued)
    keys = [_key(tried.digest, problem_id) for _, problem_id, _, tried in tries]
    rows = [
        {"tenant_id": tenant_id, "key": key, "request_digest": tried.digest, "problem_id": problem_id}
        for (tenant_id, problem_id, _, tried), key in zip(tries, keys, strict=True)
    ]
    since = session.connection().scalars(_INSERT_KEY, rows).all()[0]  # The same for all: that of the transaction.
    holds = [
        Hold(tenant_id=tenant_id, problem_id=problem_id, key=key, since=since)
        for (tenant_id, problem_id, *_), key in zip(tries, keys, strict=True)
    ]
    return list(zip(stored, holds, strict=True))


def release(session: Session, hold: Hold) -> bool:
    """Cancel a problem whose last client has left, unless another request has attached to it since.

    The key goes with it, so that no later try attaches to a problem that is being cancelled.

    Returns:
        Whether it was cancelled.

    Raises:
        ProblemLocked: Another transaction has locked it.
    """
    gone = session.scalar(
        delete(IdempotencyKey)
        .where(
            IdempotencyKey.tenant_id == hold.tenant_id,
            IdempotencyKey.key == hold.key,
            IdempotencyKey.created_at == hold.since,
        )
        .returning(IdempotencyKey.problem_id)
    )
    return gone is not None and request_cancel(session, hold.tenant_id, hold.problem_id)


def _find_earlier(session: Session, tenant_id: UUID, digest: str, problem_id: UUID) -> tuple[str, UUID] | None:
    """Find the newest problem that tries with a digest queued, and that was not cancelled; lock its key.

    The keys of one digest are in the order of their problems' ids, which begin with the time in milliseconds.
    """
    oldest = UUID(int=problem_id.int - (int(RETRIED_FOR.total_seconds() * 1000) << 80))
    row = session.execute(
        select(IdempotencyKey.key, Problem.id)
        .join(Problem, Problem.id == IdempotencyKey.problem_id)
        .where(
            IdempotencyKey.tenant_id == tenant_id,
            IdempotencyKey.key.between(_key(digest, oldest), _key(digest, _LAST)),
            Problem.status.in_(_ATTACHABLE),
            Problem.cancel_requested_at.is_(None),
        )
        .order_by(IdempotencyKey.key.desc())
        .limit(1)
        .with_for_update(of=IdempotencyKey)
    ).first()
    return None if row is None else (row.key, row.id)


def _hold(session: Session, tenant_id: UUID, key: str, problem_id: UUID) -> Hold:
    """Attach to a problem: from now on, this request decides whether it is cancelled."""
    since = session.scalars(
        update(IdempotencyKey)
        .where(IdempotencyKey.tenant_id == tenant_id, IdempotencyKey.key == key)
        .values(created_at=func.clock_timestamp())
        .returning(IdempotencyKey.created_at)
    ).one()
    return Hold(tenant_id=tenant_id, problem_id=problem_id, key=key, since=since)


_KEYS = Base.metadata.tables[IdempotencyKey.__tablename__]
_INSERT_KEY = insert(_KEYS).returning(_KEYS.c.created_at)


def _key(digest: str, problem_id: UUID) -> str:
    """Return the key of a try. Keys of clients have no spaces, so no client can choose it."""
    return f"try {digest} {problem_id}"
