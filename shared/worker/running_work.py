"""The work that a worker process is carrying out: a broadcast cancel finds it, and its progress shows."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final, Protocol
from uuid import UUID

from shared.cancellation import Cancellation
from shared.clock import SYSTEM_CLOCK
from shared.domain.drafts import UnfinishedWork
from shared.messages import Command

REMEMBERED: Final = 10_000
"""Number of cancelled problems that a process remembers, for commands that arrive after their cancel."""

REMEMBERED_S: Final = 3600.0
"""Seconds for which it remembers them."""


class HasProgress(Protocol):
    """Work whose progress can be read from another thread."""

    @property
    def unfinished(self) -> UnfinishedWork | None:
        """What the engine used past the last finished step; `None` if nothing."""


class RunningWork:
    """Running work by problem and epoch. Safe to use from many threads."""

    def __init__(
        self, monotonic: Callable[[], float] = time.monotonic, now: Callable[[], datetime] = SYSTEM_CLOCK.now
    ) -> None:
        """Begin with nothing.

        Args:
            monotonic: Returns seconds since an arbitrary moment.
            now: Returns the time of day by the clock of the service.
        """
        self._lock = threading.Lock()
        self._monotonic = monotonic
        self._now = now
        self._works: dict[Cancellation, HasProgress] = {}
        self._seen: dict[Cancellation, UnfinishedWork | None] = {}
        """What each work had used when it was looked at last."""
        self.progressed_at = monotonic()
        """When the engine last showed that it works, or got its first work after a pause, on the monotonic clock."""
        self._running: dict[Cancellation, tuple[UUID, int]] = {}
        self._cancelled: OrderedDict[UUID, tuple[int, float]] = OrderedDict()
        """Oldest epoch of each problem that was not cancelled, and when that was heard, on the monotonic clock: the
        clock of the service may step back, if another server takes over."""

    @contextmanager
    def track(self, command: Command) -> Iterator[Cancellation]:
        """Register the work of a command for as long as the block runs; its cancellation may be set from the start.

        A command of an older epoch that was issued after the cancel is carried out: the database was restored to an
        earlier time, or failed over to a replica that was behind, and the problem has that epoch again.
        """
        cancellation = Cancellation()
        with self._lock:
            if not self._running:
                self.note_progress()
            self._running[cancellation] = (command.problem_id, command.epoch)
            if self._was_cancelled(command):
                cancellation.cancel()
        try:
            yield cancellation
        finally:
            with self._lock:
                del self._running[cancellation]
                self._works.pop(cancellation, None)
                self._seen.pop(cancellation, None)

    def was_cancelled(self, command: Command) -> bool:
        """Tell whether a command was cancelled before it arrived."""
        with self._lock:
            return self._was_cancelled(command)

    def watch(self, cancellation: Cancellation, work: HasProgress) -> None:
        """Watch the progress of tracked work."""
        with self._lock:
            self._works[cancellation] = work

    def look(self) -> None:
        """Note progress if some work has used more of the engine than at the last look."""
        with self._lock:
            used = {cancellation: work.unfinished for cancellation, work in self._works.items()}
            if any(each is not None and each != self._seen.get(key) for key, each in used.items()):
                self.note_progress()
            self._seen = used

    def note_progress(self) -> None:
        """Note that the engine has finished something."""
        self.progressed_at = self._monotonic()

    def _was_cancelled(self, command: Command) -> bool:
        """Tell whether a command of a cancelled epoch was issued before its cancel was heard."""
        before_epoch, heard_at = self._cancelled.get(command.problem_id, (0, 0.0))
        if command.epoch >= before_epoch:
            return False
        return command.issued_at <= self._now() - timedelta(seconds=self._monotonic() - heard_at)

    def cancel(self, problem_id: UUID, *, before_epoch: int) -> None:
        """Cancel a problem's work of older epochs: what runs now, and what arrives later but was issued before."""
        with self._lock:
            now = self._monotonic()
            self._cancelled.pop(problem_id, None)
            self._cancelled[problem_id] = (before_epoch, now)
            while len(self._cancelled) > REMEMBERED or next(iter(self._cancelled.values()))[1] < now - REMEMBERED_S:
                self._cancelled.popitem(last=False)
            for cancellation, (running_id, epoch) in self._running.items():
                if running_id == problem_id and epoch < before_epoch:
                    cancellation.cancel()

    def cancel_all(self) -> None:
        """Cancel everything that runs."""
        with self._lock:
            for cancellation in self._running:
                cancellation.cancel()

    def interrupt_all(self, reason: Exception) -> None:
        """Cancel everything that runs although its results are needed: other workers carry it out."""
        with self._lock:
            for cancellation in self._running:
                cancellation.cancel(reason)

    @property
    def count(self) -> int:
        """Number of commands that are running."""
        with self._lock:
            return len(self._running)
