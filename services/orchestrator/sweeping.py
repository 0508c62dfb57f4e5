"""Between messages: admits queued problems, ends cancelled and expired ones, asks again for what is overdue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from services.orchestrator.applying import Outgoing, apply_controls
from shared.domain.state import AskOverdue, CancelRequested, DeadlinePassed, ProblemAdmitted
from shared.store.admission import (
    SeenProcess,
    find_attention,
    find_cancelling,
    forget_processes,
    next_queued,
    prune_inbox,
    record_processes,
)
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
    seen = SeenProcess(name, role="orchestrator", model=None, seen_at=datetime.now(UTC))
    with database.begin() as connection:
        record_processes(connection, [seen])


def prune(database: Database) -> list[str]:
    """Forget the inboxes of problems that ended long ago, and silent processes; return the names of these."""
    now = datetime.now(UTC)
    is_left = True
    while is_left:
        with database.begin() as connection:  # A transaction a portion, so that none holds much for long.
            is_left = prune_inbox(connection, now=now) > 0
    with database.begin() as connection:
        return forget_processes(connection, now=now)
