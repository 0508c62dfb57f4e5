"""The health of a process: what makes it ready, and what makes it stalled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from shared.clock import Clock
from shared.observe import metrics
from shared.observe.health import Condition, Health
from shared.store import watching
from shared.store.watching import watch_database
from tests.scraping import Scrape

START = datetime(2027, 1, 1, tzinfo=UTC)


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        self.clock = Clock(now=self.now, monotonic=lambda: self.passed_s)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.passed_s)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def health(time: Time) -> Health:
    return Health(role="small", node="small-0", conditions=("engine", "broker"), clock=time.clock)


def condition(health: Health, name: str) -> Condition:
    [found] = [each for each in health.conditions if each.name == name]
    return found


def test_a_process_is_ready_while_every_condition_is_met(health: Health) -> None:
    assert not health.is_ready
    health.meet("engine", "It answers.")
    assert not health.is_ready
    health.meet("broker", "It answers.")
    assert health.is_ready
    health.miss("broker", "It is away.")
    assert not health.is_ready
    health.meet("broker", "It is back.")
    assert health.is_ready


def test_a_condition_keeps_the_time_of_its_last_change_and_the_newest_sentence(health: Health, time: Time) -> None:
    assert condition(health, "broker").since == START
    time.passed_s = 5
    health.miss("broker", "Still not there.")
    assert condition(health, "broker").since == START, "it was not met before either"
    assert condition(health, "broker").detail == "Still not there."
    health.meet("broker", "There.")
    time.passed_s = 9
    health.meet("broker", "Still there.")
    assert condition(health, "broker").since == START + timedelta(seconds=5)
    assert condition(health, "broker").detail == "Still there."


def test_a_condition_that_is_not_confirmed_in_time_is_not_met_until_it_is(health: Health, time: Time) -> None:
    health.meet("engine", "It answers.")
    health.meet("broker", "It answers.", valid_s=40)
    time.passed_s = 40
    assert health.is_ready
    time.passed_s = 50
    assert not health.is_ready
    assert not condition(health, "broker").is_met
    assert condition(health, "broker").since == START + timedelta(seconds=40)
    found = Scrape.here(metrics.READY, metrics.CONDITION_MET)
    assert (found["trim_ready"], found.by("trim_condition_met", "condition")) == (0, {"engine": 1})
    health.meet("broker", "It answers.", valid_s=40)
    assert health.is_ready


def test_a_database_that_hangs_is_away_half_a_minute_later(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "read_schema", lambda _: SimpleNamespace(error=None, revision="0001"))
    health = Health(role="api", node="api-0", conditions=watching.CONDITIONS, clock=time.clock)
    watch_database(MagicMock(), health, every_s=5)
    time.passed_s = 35
    assert health.is_ready
    time.passed_s = 36
    assert [each.name for each in health.conditions if not each.is_met] == ["database"]


def test_metrics_show_the_conditions_and_whether_the_process_is_ready(health: Health) -> None:
    def shown() -> tuple[float, float, float]:
        found = Scrape.here(metrics.READY, metrics.CONDITION_MET)
        met = found.by("trim_condition_met", "condition")
        return found["trim_ready"], met.get("engine", 0), met.get("broker", 0)

    assert shown() == (0, 0, 0)
    health.meet("engine", "It answers.")
    assert shown() == (0, 1, 0)
    health.meet("broker", "It answers.")
    assert shown() == (1, 1, 1)
    health.miss("engine", "It is gone.")
    assert shown() == (0, 0, 1)


def test_a_loop_that_does_not_beat_in_time_is_a_defect_until_it_beats(health: Health, time: Time) -> None:
    loop = health.loop("sweeper", limit_s=10)
    time.passed_s = 100
    assert health.defects == [], "it has not begun"
    loop.beat()
    time.passed_s = 110
    assert health.defects == []
    time.passed_s = 111
    assert health.defects == ["The loop sweeper has not made progress for 11 s."]
    assert Scrape.here(metrics.LIVE)["trim_live"] == 0
    loop.beat()
    assert health.defects == []
    assert Scrape.here(metrics.LIVE)["trim_live"] == 1


def test_a_loop_that_pauses_is_no_defect(health: Health, time: Time) -> None:
    loop = health.loop("celery", limit_s=10)
    loop.beat()
    loop.pause()
    time.passed_s = 1000
    assert health.defects == []


def test_a_process_that_broke_down_stays_so(health: Health) -> None:
    health.break_down("The engine broke down.")
    health.meet("engine", "It answers.")
    assert health.defects == ["The engine broke down."]
