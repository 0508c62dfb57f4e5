"""Deletes rows that are no longer needed, a limited number in each transaction.

Replicas prune at the same time: each locks the rows it found, and leaves out those that another one has locked.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, bindparam, delete, select, update

from shared.store.change_feed import CHANGES_KEPT, MARGIN, ChangeRow
from shared.store.tables import IdempotencyKey, InboxRow, Problem

INBOX_KEPT: Final = timedelta(hours=24)
"""Time for which a finished problem's inbox stays: an event that is redelivered later may be booked as wasted twice."""

IDEMPOTENCY_KEYS_KEPT: Final = timedelta(days=7)
"""Time for which a repeated submission returns the result of the first."""

PORTION: Final = 500
"""Maximum number of problems or keys in one transaction."""


def prune_inbox(connection: Connection, *, now: datetime, limit: int = PORTION) -> int:
    """Delete the inboxes of problems that finished `INBOX_KEPT` ago, and mark these problems; return their number."""
    finished = connection.scalars(
        select(Problem.id)
        .where(Problem.finished_at.is_not(None), ~Problem.is_inbox_pruned, Problem.finished_at < now - INBOX_KEPT)
        .order_by(Problem.finished_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if finished:
        connection.execute(delete(InboxRow).where(InboxRow.problem_id.in_(finished)))
        connection.execute(update(Problem).where(Problem.id.in_(finished)).values(is_inbox_pruned=True))
    return len(finished)


def prune_idempotency_keys(connection: Connection, *, now: datetime, limit: int = PORTION) -> int:
    """Delete idempotency keys that are older than `IDEMPOTENCY_KEYS_KEPT`; return their number."""
    old = connection.execute(
        select(IdempotencyKey.tenant_id.label("tenant"), IdempotencyKey.key.label("name"))
        .where(IdempotencyKey.created_at < now - IDEMPOTENCY_KEYS_KEPT)
        .order_by(IdempotencyKey.created_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).mappings()
    keys = [dict(each) for each in old]
    if keys:
        connection.execute(_DELETE_KEY, keys)
    return len(keys)


def prune_changes(connection: Connection, *, now: datetime, limit: int = PORTION) -> int:
    """Delete changes that no valid cursor of the feed leads to; return their number."""
    old = (
        select(*_PLACE)
        .where(ChangeRow.changed_at < now - CHANGES_KEPT - 2 * MARGIN)
        .order_by(ChangeRow.changed_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    names = ("tenant", "transaction", "place")
    places = [dict(zip(names, row, strict=True)) for row in connection.execute(old)]
    if places:
        connection.execute(_DELETE_CHANGE, places)
    return len(places)


_PLACE = (ChangeRow.tenant_id, ChangeRow.transaction_id, ChangeRow.number)
_DELETE_CHANGE = delete(ChangeRow).where(
    *(column == bindparam(name) for column, name in zip(_PLACE, ("tenant", "transaction", "place"), strict=True))
)
_DELETE_KEY = delete(IdempotencyKey).where(
    IdempotencyKey.tenant_id == bindparam("tenant"), IdempotencyKey.key == bindparam("name")
)
