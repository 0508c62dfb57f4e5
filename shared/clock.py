"""The clock of a process, passed in so that a simulation can set the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True, slots=True)
class Clock:
    """Time of day, and a monotonic clock for durations."""

    now: Callable[[], datetime]
    """Return the time of day, in UTC."""
    monotonic: Callable[[], float]
    """Return seconds since an arbitrary moment; never jumps."""


SYSTEM_CLOCK = Clock(now=lambda: datetime.now(UTC), monotonic=time.monotonic)


class ServiceClock:
    """The clock of the service, which is the database's, as a process knows it. Safe to use from many threads.

    The process anchors the time that it hears to its monotonic clock, which never jumps. Until it has heard one, the
    time of day of its host stands in.
    """

    def __init__(self, own: Clock = SYSTEM_CLOCK) -> None:
        self._own = own
        self._anchor: tuple[datetime, float] | None = None
        """A time by the clock of the service, and the time on the monotonic clock at which that was."""
        self._passed: tuple[datetime, float] | None = None
        """The same for a time that had passed then, while the clock is not set."""

    def set(self, told_at: datetime, *, heard: float | None = None) -> None:
        """Set the clock.

        Args:
            told_at: The time by the clock of the service.
            heard: When that was, on the monotonic clock; by default now.
        """
        self._anchor = told_at, self.monotonic() if heard is None else heard

    def has_passed(self, moment: datetime) -> None:
        """Note a time that has passed by the clock of the service: a clock that is not set yet does not lag behind."""
        if self._anchor is None and self.now() < moment:
            self._passed = moment, self.monotonic()

    def now(self) -> datetime:
        """Return the time of day, in UTC."""
        return self.at(self.monotonic())

    def at(self, moment: float) -> datetime:
        """Return the time of day at a moment on the monotonic clock."""
        if self._anchor is not None:
            return _later(self._anchor, moment)
        guess = _later((self._own.now(), self.monotonic()), moment)
        return guess if self._passed is None else max(guess, _later(self._passed, moment))

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment; never jumps."""
        return self._own.monotonic()

    @property
    def is_set(self) -> bool:
        """Whether the clock has been set."""
        return self._anchor is not None

    @property
    def ahead_s(self) -> float | None:
        """Seconds by which the process's own clock is ahead; `None` until it has heard the time."""
        return (self._own.now() - self.now()).total_seconds() if self.is_set else None

    @property
    def clock(self) -> Clock:
        """The clock as values."""
        return Clock(now=self.now, monotonic=self.monotonic)


def _later(anchor: tuple[datetime, float], moment: float) -> datetime:
    at, heard = anchor
    return at + timedelta(seconds=moment - heard)
