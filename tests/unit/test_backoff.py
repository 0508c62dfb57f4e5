"""Delays between attempts: they double, stay below a limit, and differ between replicas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.backoff import RECONNECT, Backoff

PLAIN = Backoff(first_s=0.1, limit_s=5.0, jitter=0.0)


def test_delays_double_up_to_the_limit() -> None:
    assert [PLAIN.delay_s(attempt) for attempt in range(8)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])


@pytest.mark.parametrize("attempt", [100, 10_000])
def test_a_late_attempt_waits_no_longer_than_the_limit(attempt: int) -> None:
    assert PLAIN.delay_s(attempt) == PLAIN.limit_s


@pytest.mark.parametrize(("drawn", "delay_s"), [(0.0, 0.8), (0.5, 0.6), (1.0, 0.4)])
def test_jitter_shortens_a_delay_by_at_most_its_share(drawn: float, delay_s: float) -> None:
    assert Backoff(first_s=0.1, limit_s=5.0, jitter=0.5).delay_s(3, lambda: drawn) == pytest.approx(delay_s)


@given(attempt=st.integers(0, 1000), drawn=st.floats(0, 1, exclude_max=True))
def test_a_reconnect_always_waits_and_never_longer_than_the_limit(attempt: int, drawn: float) -> None:
    assert 0 < RECONNECT.delay_s(attempt, lambda: drawn) <= RECONNECT.limit_s


def test_replicas_do_not_reconnect_at_the_same_moment() -> None:
    assert len({RECONNECT.delay_s(5) for _ in range(10)}) > 1
