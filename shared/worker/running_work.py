"""The work that a worker process is carrying out, so that a broadcast cancel finds it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

from shared.cancellation import Cancellation
from shared.messages import Command

REMEMBERED = 10_000
"""Number of cancelled problems that a process remembers, for commands that arrive after their cancel."""


class RunningWork:
    """Running work by problem and epoch. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Cancellation, tuple[UUID, int]] = {}
        self._cancelled: OrderedDict[UUID, tuple[int, datetime]] = OrderedDict()
        """Oldest epoch of each problem that was not cancelled, and the time at which that was heard."""

    @contextmanager
    def track(self, command: Command) -> Iterator[Cancellation]:
        """Register the work of a command for as long as the block runs; its cancellation may be set from the start.

        A command of an older epoch that was issued after the cancel is carried out: the database was restored to an
        earlier time, or failed over to a replica that was behind, and the problem has that epoch again.
        """
        cancellation = Cancellation()
        with self._lock:
            self._running[cancellation] = (command.problem_id, command.epoch)
            cancelled = self._cancelled.get(command.problem_id)
            if cancelled is not None and command.epoch < cancelled[0] and command.issued_at <= cancelled[1]:
                cancellation.cancel()
        try:
            yield cancellation
        finally:
            with self._lock:
                del self._running[cancellation]

    def cancel(self, problem_id: UUID, *, before_epoch: int, now: datetime) -> None:
        """Cancel a problem's work of older epochs: what runs now, and what arrives later but was issued before."""
        with self._lock:
            self._cancelled.pop(problem_id, None)
            self._cancelled[problem_id] = (before_epoch, now)
            while len(self._cancelled) > REMEMBERED:
                self._cancelled.popitem(last=False)
            for cancellation, (running_id, epoch) in self._running.items():
                if running_id == problem_id and epoch < before_epoch:
                    cancellation.cancel()

    def cancel_all(self) -> None:
        """Cancel everything that runs."""
        with self._lock:
            for cancellation in self._running:
                cancellation.cancel()

    @property
    def count(self) -> int:
        """Number of commands that are running."""
        with self._lock:
            return len(self._running)
