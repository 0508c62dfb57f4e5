"""Housekeeping of an orchestrator: its own heartbeat, and rows that are no longer needed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from shared.store.admission import BROKER, forget_silent_processes, record_processes
from shared.store.database import Database
from shared.store.port import SeenProcess
from shared.store.pruning import prune_idempotency_keys, prune_inbox

PRUNE_EVERY: Final = timedelta(minutes=10)


def report_liveness(database: Database, *, name: str, has_broker: bool, now: datetime) -> None:
    """Record the heartbeat of this orchestrator, and that of the broker if it is reachable."""
    seen = [SeenProcess(name, role="orchestrator", model=None, seen_at=now)]
    if has_broker:
        seen.append(SeenProcess(BROKER, role=BROKER, model=None, seen_at=now))
    with database.begin() as connection:
        record_processes(connection, seen)


def prune(database: Database, *, now: datetime, on_portion: Callable[[], object] = lambda: None) -> list[str]:
    """Delete old inboxes, idempotency keys and silent processes; return the names of these processes.

    Args:
        database: The database.
        now: The time.
        on_portion: Called after each transaction: there may be thousands of them.
    """
    for prune_portion in (prune_inbox, prune_idempotency_keys):
        is_left = True
        while is_left:
            with database.begin() as connection:  # One transaction for each portion, so that none holds locks for long.
                is_left = prune_portion(connection, now=now) > 0
            on_portion()
    with database.begin() as connection:
        return forget_silent_processes(connection, now=now)
