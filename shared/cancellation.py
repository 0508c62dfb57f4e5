"""Cancelling work across threads."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Cancelled(Exception):
    """The call was cancelled; its result is no longer needed."""


class Cancellation:
    """Cancels a running call from another thread."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._changes = threading.Lock()
        self._calls: list[Callable[[], object]] = []
        self.reason: Exception | None = None
        """Why the call was cancelled although its result is needed; `None` otherwise."""

    def cancel(self, reason: Exception | None = None) -> None:
        """Cancel the call; it ends at its next check."""
        with self._changes:
            if not self._event.is_set():
                self.reason = reason
            self._event.set()
            calls, self._calls = self._calls, []
        for call in calls:
            call()

    def when_cancelled(self, call: Callable[[], object]) -> None:
        """Register a callback; the thread that cancels runs it, so it must not block."""
        with self._changes:
            if not self._event.is_set():
                self._calls.append(call)
                return
        call()

    @property
    def is_cancelled(self) -> bool:
        """Whether the call is cancelled."""
        return self._event.is_set()

    @property
    def is_obsolete(self) -> bool:
        """Whether the call is cancelled because its result is not needed."""
        return self._event.is_set() and self.reason is None

    def raise_if_cancelled(self) -> None:
        """Raise `Cancelled` if the call is cancelled."""
        if self._event.is_set():
            raise Cancelled
