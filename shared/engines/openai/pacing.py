"""Waiting while a server is busy: all calls of a worker wait together, and one of them tries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from shared.backoff import Backoff

RETRY = Backoff(first_s=0.3, limit_s=2.4)


@dataclass(slots=True)
class Pacing:
    """Admits requests freely until the server is busy, and then one at a time, after the rest that the server demands.

    Requests that the server accepts let the waiting ones follow one by one, so a server that has few slots is not asked
    by all of them again.

    Use it from one event loop only.
    """

    backoff: Backoff = RETRY
    _is_busy: bool = False
    _resting_until: float = 0.0
    _refusals: int = 0
    """Number of refusals in a row."""
    _waiting: int = 0
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_busy(self) -> bool:
        """Whether the server is busy, so that requests wait for their turn."""
        return self._is_busy

    def rests_past(self, deadline: float) -> bool:
        """Tell whether the server gets no request before a time on the monotonic clock."""
        return self._is_busy and self._resting_until >= deadline

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until a request may be sent; the block ends as soon as it is known whether the server accepts it."""
        if not self._is_busy:
            yield
            return
        self._waiting += 1
        try:
            async with self._turn:
                while (delay_s := self._resting_until - time.monotonic()) > 0:
                    await asyncio.sleep(delay_s)
                yield
        finally:
            self._waiting -= 1

    def rest(self, wait_s: float | None) -> None:
        """Note that the server is busy, and for how many seconds it asks for a rest, if it does."""
        delay_s = self.backoff.delay_s(self._refusals) if wait_s is None else wait_s
        self._refusals += 1
        self._is_busy = True
        self._resting_until = max(self._resting_until, time.monotonic() + delay_s)

    def accept(self) -> None:
        """Note that the server accepted a request."""
        self._refusals = 0
        waits = self._waiting > 1  # The one that was accepted may be one of them.
        self._is_busy = waits or time.monotonic() < self._resting_until
