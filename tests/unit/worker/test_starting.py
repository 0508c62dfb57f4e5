"""A worker is ready once its engine has answered, and its connections to the broker are there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared.bus.connection import BrokerUnavailable
from shared.domain.roles import WorkerRole
from shared.engines.openai.errors import ModelNotServed, ServerUnavailable
from shared.engines.port import EngineDead
from shared.errors import TrimError
from shared.observe import metrics
from shared.observe.health import Health
from shared.worker import starting
from shared.worker.broker_watch import BrokerWatch
from shared.worker.starting import score_once, started, write_once
from tests.scraping import Scrape
from tests.unit.worker.working import Scripted


@pytest.fixture
def health() -> Health:
    return Health(role="small", node="small-0", conditions=("engine", "broker"))


def shown(health: Health, name: str) -> tuple[bool, str]:
    [found] = [each for each in health.conditions if each.name == name]
    return found.is_met, found.detail


def test_the_engine_counts_as_there_once_it_has_written_or_scored(health: Health) -> None:
    for answer in (write_once, score_once):
        engine = Scripted("One.")

        def load(engine: Scripted = engine) -> Scripted:
            assert shown(health, "engine") == (False, "The model is being loaded.")
            return engine

        with started(load, answer, role=WorkerRole.SMALL, health=health):  # type: ignore[arg-type,var-annotated,misc]
            assert engine.calls == 1
            assert shown(health, "engine") == (True, "The model scripted answers.")
    assert Scrape.here(metrics.ENGINE_START_SECONDS).sum("trim_engine_start_seconds", role="small") > 0


def answering(*faults: TrimError, then: Callable[[], None] = lambda: None) -> Callable[[Scripted], None]:
    """Raise an error at each call, until none is left."""
    left = list(faults)

    def answer(_engine: Scripted) -> None:
        if left:
            raise left.pop(0)
        then()

    return answer


def test_a_server_that_is_away_is_awaited_and_named_meanwhile(health: Health, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[bool, str]] = []
    monkeypatch.setattr(starting.time, "sleep", lambda _: said.append(shown(health, "engine")))
    away = ServerUnavailable("The server of TRIM_SMALL_URL cannot be reached; check that it runs there.")
    with started(Scripted, answering(away, away), role=WorkerRole.SMALL, health=health):  # type: ignore[type-var]
        assert said == [(False, str(away))] * 2
        assert shown(health, "engine")[0]


@pytest.mark.parametrize("fault", [ModelNotServed("TRIM_SMALL_MODEL is wrong."), EngineDead()])
def test_an_engine_that_refuses_or_breaks_down_is_not_asked_twice(health: Health, fault: TrimError) -> None:
    answer = answering(fault, then=lambda: pytest.fail("it is asked twice"))
    with pytest.raises(type(fault)), started(Scripted, answer, role=WorkerRole.SMALL, health=health):  # type: ignore[type-var]
        pass
    assert not shown(health, "engine")[0]


def test_the_broker_counts_as_there_while_commands_are_consumed_and_events_published(health: Health) -> None:
    watch = BrokerWatch(health)
    watch.on_publishing(None)
    assert shown(health, "broker") == (False, "No connection to the broker has been made yet.")
    watch.on_connected()
    assert shown(health, "broker")[0]
    watch.on_publishing(BrokerUnavailable())
    assert shown(health, "broker") == (False, str(BrokerUnavailable()))
    watch.on_lost(ConnectionResetError("amqp://guest:secret@host"))
    is_met, detail = shown(health, "broker")
    assert not is_met
    assert "ConnectionResetError" in detail
    assert "secret" not in detail
    watch.on_publishing(None)
    assert not shown(health, "broker")[0]
    watch.on_connected()
    assert shown(health, "broker")[0]
