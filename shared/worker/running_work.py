"""The work that a worker process is carrying out, so that a broadcast cancel finds it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from shared.cancellation import Cancellation

REMEMBERED = 10_000
"""Number of cancelled problems that a process remembers, for commands that arrive after their cancel."""


class RunningWork:
    """Running work by problem and epoch. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Cancellation, tuple[UUID, int]] = {}
        self._oldest_epoch: OrderedDict[UUID, int] = OrderedDict()

    @contextmanager
    def track(self, problem_id: UUID, epoch: int) -> Iterator[Cancellation]:
        """Register work for as long as the block runs; its cancellation may be set from the start."""
        cancellation = Cancellation()
        with self._lock:
            self._running[cancellation] = (problem_id, epoch)
            if epoch < self._oldest_epoch.get(problem_id, 0):
                cancellation.cancel()
        try:
            yield cancellation
        finally:
            with self._lock:
                del self._running[cancellation]

    def cancel(self, problem_id: UUID, *, before_epoch: int) -> None:
        """Cancel a problem's work of older epochs: what runs now, and what arrives later."""
        with self._lock:
            self._oldest_epoch[problem_id] = max(before_epoch, self._oldest_epoch.pop(problem_id, 0))
            while len(self._oldest_epoch) > REMEMBERED:
                self._oldest_epoch.popitem(last=False)
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
