"""The clock of a process, passed in so that a simulation can set the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Clock:
    """Time of day, and a monotonic clock for durations."""

    now: Callable[[], datetime]
    """Return the time of day, in UTC."""
    monotonic: Callable[[], float]
    """Return seconds since an arbitrary moment; never jumps."""


SYSTEM_CLOCK = Clock(now=lambda: datetime.now(UTC), monotonic=time.monotonic)
