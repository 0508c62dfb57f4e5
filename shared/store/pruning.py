"""Deletes rows that are no longer needed, a limited number in each transaction."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, bindparam, delete, select, tuple_, update

from shared.store.tables import IdempotencyKey, InboxRow, Problem

INBOX_KEPT: Final = timedelta(hours=24)
"""Time for which a finished problem's inbox stays: an event that is redelivered later may be booked as wasted twice."""

IDEMPOTENCY_KEYS_KEPT: Final = timedelta(days=7)
"""Time for which a repeated submission returns the result of the first."""

PORTION: Final = 500
"""Maximum number of problems or keys in one transaction."""


def prune_inbox(connection: Connection, *, now: datetime, limit: int = PORTION) -> int:
    """Delete the inboxes of problems that finished `INBOX_KEPT` ago; return the number of these problems.

    Each problem is visited once, and problems that another replica is visiting are left out.
    """
    return connection.execute(_PRUNE_INBOX, {"before": now - INBOX_KEPT, "limit": limit}).rowcount


def prune_idempotency_keys(connection: Connection, *, now: datetime, limit: int = PORTION) -> int:
    """Delete idempotency keys that are older than `IDEMPOTENCY_KEYS_KEPT`; return their number."""
    return connection.execute(_PRUNE_KEYS, {"before": now - IDEMPOTENCY_KEYS_KEPT, "limit": limit}).rowcount


_BEFORE = bindparam("before", type_=Problem.finished_at.type)
_LIMIT = bindparam("limit", type_=Problem.batch_index.type)
_FINISHED = (
    select(Problem.id)
    .where(Problem.finished_at.is_not(None), ~Problem.is_inbox_pruned, Problem.finished_at < _BEFORE)
    .order_by(Problem.finished_at)
    .limit(_LIMIT)
    .with_for_update(skip_locked=True)
    .cte("finished")
)
_EMPTIED = delete(InboxRow).where(InboxRow.problem_id == _FINISHED.c.id).cte("emptied")
_PRUNE_INBOX = (
    update(Problem).where(Problem.id == _FINISHED.c.id).values(is_inbox_pruned=True).add_cte(_FINISHED, _EMPTIED)
).execution_options(synchronize_session=False)

_KEY = (IdempotencyKey.tenant_id, IdempotencyKey.key)
_PRUNE_KEYS = delete(IdempotencyKey).where(
    tuple_(*_KEY).in_(
        select(*_KEY)
        .where(IdempotencyKey.created_at < _BEFORE)
        .order_by(IdempotencyKey.created_at)
        .limit(_LIMIT)
        .with_for_update(skip_locked=True)
    )
)
