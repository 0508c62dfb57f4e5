"""A circuit breaker: it spares a failing server, and the callers that would wait for it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

FAILURES = 10
"""Failed requests in a row that open the breaker: more than one call makes, fewer than a full worker makes."""

REST_S = 5.0
"""Seconds for which an open breaker admits no request."""


Pass = Literal["request", "probe"]


@dataclass(slots=True)
class Breaker:
    """Opens after failures in a row; after a rest, a single request probes whether the server is back.

    Use it from one thread only.
    """

    failures: int = FAILURES
    rest_s: float = REST_S
    _failed: int = 0
    _resting_until: float = 0.0
    _is_probing: bool = False

    def admit(self) -> Pass | None:
        """Admit a request, or return `None`; settle each admitted request, however it ends."""
        if self._failed < self.failures:
            return "request"
        if self._is_probing or time.monotonic() < self._resting_until:
            return None
        self._is_probing = True
        return "probe"

    def settle(self, passed: Pass, *, is_alive: bool | None) -> None:
        """Record what a request showed: the server is alive, it is not, or (`None`) nothing."""
        if passed == "probe":
            self._is_probing = False
        if is_alive:
            self._failed = 0
        elif is_alive is not None:
            self._failed += 1
            self._resting_until = time.monotonic() + self.rest_s
