"""The clock of the service, as a process knows it that may have a wrong time of day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.orchestrator.receiving import seen_process
from shared.clock import Clock, ServiceClock
from shared.domain.fitness import Unfit
from shared.messages import WorkerSeen

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Host:
    """A host whose time of day is wrong."""

    def __init__(self, skew: timedelta) -> None:
        self.at = NOW + skew
        self.monotonic_s = 500.0
        self.clock = ServiceClock(Clock(now=lambda: self.at, monotonic=lambda: self.monotonic_s))

    def wait(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
        self.monotonic_s += seconds


@pytest.mark.parametrize("skew", [-HOUR, HOUR, timedelta()])
def test_a_process_keeps_the_time_that_it_heard(skew: timedelta) -> None:
    host = Host(skew)
    assert (host.clock.is_set, host.clock.ahead_s, host.clock.now()) == (False, None, NOW + skew)
    host.clock.set(NOW)
    host.wait(60)
    assert (host.clock.is_set, host.clock.now()) == (True, NOW + timedelta(minutes=1))
    assert host.clock.ahead_s == skew.total_seconds()
    assert host.clock.at(500.0) == NOW
    host.at += HOUR  # Somebody sets the host's clock: only the difference shows it.
    assert host.clock.now() == NOW + timedelta(minutes=1)
    assert host.clock.ahead_s == (skew + HOUR).total_seconds()


def test_a_time_that_was_read_some_seconds_ago_counts_from_then() -> None:
    host = Host(-HOUR)
    host.wait(10)
    host.clock.set(NOW, heard=500.0)
    assert host.clock.now() == NOW + timedelta(seconds=10)


def test_a_clock_that_is_not_set_does_not_lag_behind_what_has_passed() -> None:
    host = Host(-HOUR)
    host.clock.has_passed(NOW)
    host.wait(5)
    assert (host.clock.is_set, host.clock.now()) == (False, NOW + timedelta(seconds=5))
    host.clock.has_passed(NOW)
    assert host.clock.now() == NOW + timedelta(seconds=5)
    host.clock.set(NOW - HOUR)
    host.clock.has_passed(NOW)
    assert host.clock.now() == NOW - HOUR, "the service's clock decides"
    ahead = Host(HOUR)
    ahead.clock.has_passed(NOW)
    assert ahead.clock.now() == NOW + HOUR


@pytest.mark.parametrize(
    ("seen_at", "ahead_s", "recorded"),
    [
        (NOW - timedelta(seconds=3), 3600.0, NOW - timedelta(seconds=3)),
        (NOW + HOUR, 3600.0, NOW),
        (NOW - HOUR, None, NOW),
        (NOW + HOUR, None, NOW),
    ],
)
def test_no_worker_is_recorded_as_seen_in_the_future_or_by_a_clock_that_is_not_set(
    seen_at: datetime, ahead_s: float | None, recorded: datetime
) -> None:
    unfit = Unfit(code="access_denied", detail="The key is wrong.", since=seen_at)
    heartbeat = WorkerSeen(
        role="small", worker="small-1", model="tiny", seen_at=seen_at, clock_ahead_s=ahead_s, unfit=unfit
    )
    seen = seen_process(heartbeat, now=NOW)
    assert (seen.seen_at, seen.clock_ahead_s) == (recorded, ahead_s)
    assert seen.unfit is not None
    assert seen.unfit.since == min(seen_at, NOW)
