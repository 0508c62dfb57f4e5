"""Housekeeping of an orchestrator: its own heartbeat, and rows that are no longer needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, select

from shared.clock import ServiceClock
from shared.domain.fitness import Unfit
from shared.domain.status import Status
from shared.observe import metrics
from shared.store.admission import BROKER, count_open, forget_silent_processes, record_processes
from shared.store.database import Database
from shared.store.port import SeenProcess
from shared.store.presence import count_waiting
from shared.store.pruning import prune_changes, prune_idempotency_keys, prune_inbox

PRUNE_EVERY: Final = timedelta(minutes=10)

COUNT_EVERY_S: Final = 3.0
"""Minimum number of seconds between two counts of the open problems."""


def set_clock(database: Database, clock: ServiceClock) -> None:
    """Set the clock of the service by the database's: it was read halfway between question and answer."""
    with database.begin() as connection:
        connection.execute(select(1))  # The question that follows does not wait for a connection.
        asked = clock.monotonic()
        told_at: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        clock.set(told_at, heard=(asked + clock.monotonic()) / 2)


def report_liveness(
    database: Database, *, name: str, has_broker: bool, now: datetime, blocked: Unfit | None = None
) -> None:
    """Record the heartbeat of this orchestrator, and that of the broker if it answers, also if it is `blocked`."""
    seen = [SeenProcess(name, role="orchestrator", model=None, seen_at=now)]
    if has_broker:
        seen.append(SeenProcess(BROKER, role=BROKER, model=None, seen_at=now, unfit=blocked))
    with database.begin() as connection:
        record_processes(connection, seen)


class OpenProblems:
    """Shows operators the number of open problems, from the database: every orchestrator shows all of them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._next_at = 0.0

    def show(self) -> None:
        """Count them, unless the last count was a short time ago.

        Counting a long queue takes longer than counting a short one, so the pauses are at least 20 times as long: it
        takes at most 5 % of one connection.
        """
        began = time.monotonic()
        if began < self._next_at:
            return
        with self._database.begin() as connection:
            counts = count_open(connection)
            waiting = count_waiting(connection)
        for role, gauge in metrics.PROBLEMS_WAITING.items():
            gauge.set(waiting[role])
        for status, gauge in metrics.PROBLEMS.items():
            gauge.set(counts[Status(status)])
        took_s = time.monotonic() - began
        self._next_at = began + max(COUNT_EVERY_S, 20 * took_s)


def prune(database: Database, *, now: datetime, on_portion: Callable[[int], object] = lambda _: None) -> list[str]:
    """Delete old inboxes, idempotency keys, changes and silent processes; return the names of these processes.

    Args:
        database: The database.
        now: The time.
        on_portion: Called after each transaction, of which there may be thousands, with the number of rows.
    """
    for prune_portion in (prune_inbox, prune_idempotency_keys, prune_changes):
        is_left = True
        while is_left:
            with database.begin() as connection:  # One transaction for each portion, so that none holds locks for long.
                pruned = prune_portion(connection, now=now)
            on_portion(pruned)
            is_left = pruned > 0
    with database.begin() as connection:
        return forget_silent_processes(connection, now=now)
