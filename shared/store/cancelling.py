"""Records that problems are to be cancelled; orchestrators end them."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from shared.domain.status import Status
from shared.errors import RetryableError
from shared.store.batches import IS_OPEN
from shared.store.database import wake_orchestrators
from shared.store.submissions import PORTION
from shared.store.tables import Batch, Problem


class ProblemLocked(RetryableError):
    """Another session has locked the problem; try again, and see /health/ready for who it is."""

    code = "problem_locked"


@dataclass(frozen=True, slots=True)
class CancelledPortion:
    """What one transaction of `request_batch_cancel` did."""

    count: int
    """Number of problems whose cancellation it requested."""
    last: UUID | None
    """Id of the last of them; `None` once no further problem can be cancelled."""


def request_cancel(session: Session, tenant_id: UUID, problem_id: UUID) -> bool:
    """Record that a problem is to be cancelled; an orchestrator ends it. Does nothing if it has ended.

    Returns:
        Whether the problem was still open.

    Raises:
        ProblemLocked: Another transaction has locked it: an orchestrator's for milliseconds, or someone else's.
    """
    is_open = (
        Problem.tenant_id == tenant_id,
        Problem.id == problem_id,
        Problem.status.in_([Status.QUEUED, Status.RUNNING]),
    )
    free = select(Problem.id).where(*is_open).with_for_update(skip_locked=True, key_share=True).cte("free")
    found = session.execute(
        update(Problem)
        .where(Problem.id == free.c.id)
        # Not `now()`: that is when the transaction began.
        .values(cancel_requested_at=func.coalesce(Problem.cancel_requested_at, func.clock_timestamp()))
        .returning(Problem.id)
    ).first()
    if found is not None:
        wake_orchestrators(session, to="cancel")
    elif session.scalar(select(Problem.id).where(*is_open)) is not None:
        raise ProblemLocked
    return found is not None


def begin_batch_cancel(session: Session, tenant_id: UUID, batch_id: UUID) -> None:
    """Record that a batch is to be cancelled, unless it has ended; the time of the first request stays."""
    session.execute(
        update(Batch)
        .where(Batch.tenant_id == tenant_id, Batch.id == batch_id, Batch.cancel_requested_at.is_(None))
        .where(select(Problem.id).where(Problem.batch_id == Batch.id, IS_OPEN).limit(1).scalar_subquery().is_not(None))
        .values(cancel_requested_at=func.clock_timestamp())
    )


def request_batch_cancel(
    session: Session, tenant_id: UUID, batch_id: UUID, *, after: UUID | None, limit: int = PORTION
) -> CancelledPortion:
    """Record that some problems of a batch are to be cancelled: open ones, in the order of their ids.

    Those that another transaction has locked are left out. An orchestrator holds a problem for milliseconds, so the
    caller begins again until `count_uncancelled` finds none.

    Args:
        session: The session; its transaction should be short, because orchestrators pass over problems that it locks.
        tenant_id: The tenant.
        batch_id: The batch.
        after: Id of the last problem of the portion before.
        limit: Maximum number of problems.
    """
    wanted = _uncancelled(tenant_id, batch_id)
    if after is not None:
        wanted = wanted.where(Problem.id > after)
    free = wanted.order_by(Problem.id).limit(limit).with_for_update(skip_locked=True, key_share=True).cte("free")
    ids = session.scalars(
        update(Problem)
        .where(Problem.id == free.c.id)
        .values(cancel_requested_at=func.clock_timestamp())
        .returning(Problem.id)
    ).all()
    if ids:
        wake_orchestrators(session, to="cancel")
    return CancelledPortion(len(ids), max(ids, default=None))


def count_uncancelled(session: Session, tenant_id: UUID, batch_id: UUID) -> int:
    """Count the open problems of a batch whose cancellation is not requested."""
    return session.scalar(select(func.count()).select_from(_uncancelled(tenant_id, batch_id).subquery())) or 0


def _uncancelled(tenant_id: UUID, batch_id: UUID) -> Select[UUID]:
    return select(Problem.id).where(
        Problem.tenant_id == tenant_id, Problem.batch_id == batch_id, IS_OPEN, Problem.cancel_requested_at.is_(None)
    )
