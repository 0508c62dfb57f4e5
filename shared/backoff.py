"""Back-off with jitter between attempts to reach a server."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Delays that double from attempt to attempt up to a limit, shortened at random.

    Without the jitter, replicas that lost the same server would all reconnect at the same moments.
    """

    first_s: float
    limit_s: float
    jitter: float = 0.5
    """Maximum share by which a delay is shortened."""

    def delay_s(self, attempt: int, draw: Callable[[], float] = random.random) -> float:
        """Return the seconds to wait after an attempt; the first attempt is number 0."""
        longest = min(self.limit_s, self.first_s * 2.0 ** min(attempt, 32))
        return longest * (1 - self.jitter * draw())


RECONNECT = Backoff(first_s=0.1, limit_s=5.0)
"""For connections to the broker and the database, and for restarts of roles."""
