"""Between messages: admits queued problems, ends cancelled and expired ones, asks again for what is overdue."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from services.orchestrator.applying import Controls, Outgoing, apply_controls
from shared.domain.state import AskOverdue, CancelRequested, DeadlinePassed, ProblemAdmitted
from shared.errors import RetryableError
from shared.log import get_logger
from shared.store.admission import (
    BROKER,
    SeenProcess,
    find_attention,
    forget_silent_processes,
    next_queued,
    prune_inbox,
    record_processes,
)
from shared.store.database import Database
from shared.store.reasoning import end_unreadable

SWEEP_LIMIT: Final = 200
"""Most problems that one transaction of the sweeper touches."""

PRUNE_EVERY: Final = timedelta(minutes=10)

_log = get_logger(__name__)


def admit(database: Database, *, window: int) -> list[Outgoing]:
    """Start queued problems up to the window; return what to publish."""

    def find(connection: Connection) -> Controls:
        return {
            each.problem_id: [CancelRequested()] if each.is_cancelling else [DeadlinePassed(), ProblemAdmitted()]
            for each in next_queued(connection, window=window, limit=SWEEP_LIMIT)
        }

    return _apply_found(database, find)


def attend(database: Database) -> list[Outgoing]:
    """Look after problems that are cancelled, past their deadline or overdue; return what to publish."""

    def find(connection: Connection) -> Controls:
        return {
            each.problem_id: [CancelRequested()] if each.is_cancelling else [DeadlinePassed(), AskOverdue()]
            for each in find_attention(connection, now=datetime.now(UTC), limit=SWEEP_LIMIT)
        }

    return _apply_found(database, find)


def _apply_found(database: Database, find: Callable[[Connection], Controls]) -> list[Outgoing]:
    """Find problems and apply to each what is due, in one transaction.

    A problem that breaks the transaction of all is found by trying them one by one, and ended as failed: it would be
    found due again and again.
    """
    try:
        with database.begin() as connection:
            return apply_controls(connection, find(connection))
    except RetryableError:
        raise
    except Exception:  # noqa: BLE001 - one of the problems is to blame, and it is found below
        _log.exception("controls_isolated")
    with database.begin() as connection:
        found = find(connection)
    outgoing: list[Outgoing] = []
    for problem_id, events in found.items():
        try:
            with database.begin() as connection:
                outgoing += apply_controls(connection, {problem_id: events})
        except RetryableError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, it must not stop the others
            _log.exception("control_failed", problem_id=str(problem_id))
            with database.begin() as connection:
                detail = f"The orchestrator failed on it ({type(error).__name__})."
                end_unreadable(connection, problem_id, detail=detail)
    return outgoing


def report_alive(database: Database, *, name: str, has_broker: bool) -> None:
    """Note that this orchestrator is up, and that it reaches the broker, if it does."""
    now = datetime.now(UTC)
    seen = [SeenProcess(name, role="orchestrator", model=None, seen_at=now)]
    if has_broker:
        seen.append(SeenProcess(BROKER, role=BROKER, model=None, seen_at=now))
    with database.begin() as connection:
        record_processes(connection, seen)


def prune(database: Database) -> list[str]:
    """Forget the inboxes of problems that ended long ago, and silent processes; return the names of these."""
    now = datetime.now(UTC)
    is_left = True
    while is_left:
        with database.begin() as connection:  # A transaction a portion, so that none holds much for long.
            is_left = prune_inbox(connection, now=now) > 0
    with database.begin() as connection:
        return forget_silent_processes(connection, now=now)
