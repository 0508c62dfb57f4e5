"""The feed of changes: which problems were submitted and have ended, in an order in which no reader misses one.

Transactions do not commit in the order in which they begin or take numbers. So a reader that remembers the last row
that it saw may miss the rows of a transaction that commits later. Here rows are ordered by their transaction, and a
reader gets only those of transactions that are older than the oldest one that is still open.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Identity,
    Index,
    PrimaryKeyConstraint,
    Text,
    cast,
    func,
    insert,
    select,
    text,
    tuple_,
)
from sqlalchemy.orm import Mapped, Session, mapped_column

from shared.domain.status import Status
from shared.errors import PermanentError
from shared.store.cursors import BadCursor, make_cursor, read_cursor
from shared.store.queries import Page
from shared.store.tables import Base, one_of

CHANGES_KEPT: Final = timedelta(days=7)
"""Time for which a cursor of the feed is valid."""

MARGIN: Final = timedelta(hours=1)
"""Cursors are accepted for this much longer, so that a reader who begins with the oldest change can go on. Rows are
kept for twice as much longer: their time is the begin of a transaction, which is before its commit."""

_MAX_BIGINT: Final = 2**63 - 1


class CursorExpired(PermanentError):
    """Changes after this cursor were deleted; list all problems, and read the changes without a cursor."""

    code = "cursor_expired"


class ChangeRow(Base):
    """A problem that was submitted, or has ended."""

    __tablename__ = "changes"
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "transaction_id", "number"),
        one_of("status", Status),
        Index("ix_changes_changed_at", "changed_at"),
    )

    tenant_id: Mapped[UUID]
    transaction_id: Mapped[int] = mapped_column(BigInteger, server_default=text("(pg_current_xact_id()::text)::bigint"))
    number: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    """Orders the changes of one transaction."""
    problem_id: Mapped[UUID]
    """No foreign key: it is written beside the problem, which is never deleted, and is soon deleted itself."""
    status: Mapped[str]
    """The status that the problem took: `queued` when it was submitted, or a final one."""
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())


@dataclass(frozen=True, slots=True)
class _Place:
    """What a reader has read: the changes up to this one."""

    transaction_id: int
    number: int
    read_at: datetime


_HORIZON = cast(cast(func.pg_snapshot_xmin(func.pg_current_snapshot()), Text), BigInteger)
"""The oldest transaction that is open. All transactions before it have ended: their rows are seen, or were undone."""

RECORD_END: Final = """
INSERT INTO changes (tenant_id, problem_id, status)
SELECT tenant_id, id, status FROM problems WHERE id = %(problem_id)s
"""
"""Records that a problem has taken its final status. For the driver, in the transaction that writes the status."""


def record_submissions(session: Session, tenant_id: UUID, problem_ids: Iterable[UUID]) -> None:
    """Record that problems were submitted, in the transaction that stores them."""
    rows = [{"tenant_id": tenant_id, "problem_id": each, "status": Status.QUEUED} for each in problem_ids]
    session.execute(insert(ChangeRow), rows)


def list_changes(
    session: Session, tenant_id: UUID, *, limit: int, cursor: str | None, from_now: bool = False
) -> Page[ChangeRow]:
    """List changes in their order. The cursor that is returned, also with the last change, leads on to later ones.

    Args:
        session: The session.
        tenant_id: The tenant.
        limit: Maximum number of changes.
        cursor: Cursor of the page before; `None` to begin.
        from_now: Whether to begin with the changes to come, rather than with the oldest that is kept.

    Raises:
        BadCursor: The cursor is not one of this listing.
        CursorExpired: The cursor is too old, or from before the database was restored into another server.
    """
    horizon: int
    horizon, now = session.execute(select(_HORIZON, func.now())).one()
    if cursor is None:
        place = _Place(horizon if from_now else 0, 0, now)
    else:
        place = _read(cursor)
        if now - place.read_at > CHANGES_KEPT + MARGIN or place.transaction_id > horizon:
            raise CursorExpired
    row = ChangeRow
    query = select(row).where(
        row.tenant_id == tenant_id,
        tuple_(row.transaction_id, row.number) > tuple_(place.transaction_id, place.number),
        row.transaction_id < horizon,
    )
    if cursor is None:
        query = query.where(row.changed_at >= now - CHANGES_KEPT)
    items: Sequence[ChangeRow] = session.scalars(
        query.order_by(row.tenant_id, row.transaction_id, row.number).limit(limit)
    ).all()
    end = (items[-1].transaction_id, items[-1].number) if len(items) == limit else (horizon, 0)
    # A page that is full may end before changes that are as old as the place before it.
    read_at = now if len(items) < limit else max(place.read_at, items[-1].changed_at)
    return Page(items, _make(_Place(*end, read_at)))


def _make(place: _Place) -> str:
    return make_cursor("changes", str(place.transaction_id), str(place.number), place.read_at.isoformat())


def _read(cursor: str) -> _Place:
    written = read_cursor("changes", cursor, str, str, str)
    try:
        place = _Place(int(written[0]), int(written[1]), datetime.fromisoformat(written[2]))
    except ValueError as error:
        raise BadCursor from error
    numbers = (place.transaction_id, place.number)
    if place.read_at.tzinfo is None or min(numbers) < 0 or max(numbers) > _MAX_BIGINT:
        raise BadCursor
    return place
