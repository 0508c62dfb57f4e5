"""Between messages: admits queued problems, ends cancelled and expired ones, asks again for what is overdue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from services.orchestrator.applying import Outgoing, apply_controls
from shared.domain.state import AskOverdue, CancelRequested, DeadlinePassed, ProblemAdmitted
from shared.store.admission import find_attention, find_cancelling, next_queued, prune_inbox, record_process
from shared.store.database import Database

SWEEP_LIMIT: Final = 200
"""Most problems that one transaction of the sweeper touches."""

PRUNE_EVERY: Final = timedelta(minutes=10)


def admit(database: Database, *, window: int) -> list[Outgoing]:
    """Start queued problems up to the window; return what to publish."""
    with database.begin() as connection:
        queued = next_queued(connection, window=window, limit=SWEEP_LIMIT)
        cancelling = find_cancelling(connection, queued)
        return apply_controls(
            connection,
            [(each, [CancelRequested() if each in cancelling else ProblemAdmitted()]) for each in queued],
        )


def attend(database: Database) -> list[Outgoing]:
    """Look after problems that are cancelled, past their deadline or overdue; return what to publish."""
    with database.begin() as connection:
        found = find_attention(connection, now=datetime.now(UTC), limit=SWEEP_LIMIT)
        cancelling = find_cancelling(connection, found)
        return apply_controls(
            connection,
            [(each, [CancelRequested()] if each in cancelling else [DeadlinePassed(), AskOverdue()]) for each in found],
        )


def report_alive(database: Database, *, name: str) -> None:
    """Note that this orchestrator is up."""
    with database.begin() as connection:
        record_process(connection, name=name, role="orchestrator", model=None, seen_at=datetime.now(UTC))


def prune(database: Database) -> None:
    """Forget the inboxes of problems that ended long ago."""
    with database.begin() as connection:
        prune_inbox(connection, now=datetime.now(UTC))
