"""A clock that stands still until it is set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from shared.clock import Clock

START = datetime(2026, 1, 1, tzinfo=UTC)
"""Time at which a simulation begins."""


class SettableClock:
    """Simulated time."""

    def __init__(self) -> None:
        self.now = START

    @property
    def clock(self) -> Clock:
        """The clock that the simulated processes read."""
        return Clock(now=lambda: self.now, monotonic=self._elapsed_s)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    def advance_to(self, moment: datetime) -> None:
        """Let time pass until a moment; one in the past changes nothing."""
        self.now = max(self.now, moment)

    def _elapsed_s(self) -> float:
        return (self.now - START).total_seconds()
