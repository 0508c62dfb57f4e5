"""A worker is ready once its engine has answered, and its connections to the broker are there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from amqp.exceptions import PreconditionFailed

from shared.bus.connection import BrokerUnavailable
from shared.domain.roles import WorkerRole
from shared.engines.openai.errors import ServerUnavailable
from shared.engines.port import BadScores, EngineDead, RequestRefused, ThinkingTookAll
from shared.errors import TrimError
from shared.observe import metrics
from shared.observe.health import Health
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


def test_an_engine_writes_or_scores_once_before_its_worker_takes_commands(health: Health) -> None:
    for answer in (partial(write_once, role=WorkerRole.SMALL), score_once):
        engine = Scripted("One.")

        def load(engine: Scripted = engine) -> Scripted:
            assert shown(health, "engine") == (False, "The model is being loaded.")
            return engine

        with started(load, answer, role=WorkerRole.SMALL, health=health) as (_, failed):  # type: ignore[arg-type,var-annotated,misc]
            assert engine.calls == 1
            assert failed is None
    assert Scrape.here(metrics.ENGINE_START_SECONDS).sum("trim_engine_start_seconds", role="small") > 0


def answering(*faults: TrimError, then: Callable[[], None] = lambda: None) -> Callable[[Scripted], None]:
    """Raise an error at each call, until none is left."""
    left = list(faults)

    def answer(_engine: Scripted) -> None:
        if left:
            raise left.pop(0)
        then()

    return answer


def test_a_worker_whose_server_is_away_starts_all_the_same(health: Health) -> None:
    away = ServerUnavailable("The server of TRIM_SMALL_URL cannot be reached; check that it runs there.")
    with started(Scripted, answering(away), role=WorkerRole.SMALL, health=health) as (_, failed):  # type: ignore[type-var]
        assert failed is away
        assert not shown(health, "engine")[0]


def test_a_prm_with_too_few_scores_is_unfit_from_the_start(health: Health) -> None:
    with started(partial(Scripted, scores=0), score_once, role=WorkerRole.PRM, health=health) as (_, failed):  # type: ignore[type-var]
        assert isinstance(failed, BadScores)


@pytest.mark.parametrize("fault", [RequestRefused("TRIM_PROMPT_STYLE is wrong."), EngineDead()])
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
    watch.on_lost(PreconditionFailed("PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out."))
    assert "consumer_timeout of RabbitMQ" in shown(health, "broker")[1]
    watch.on_connected()
    assert shown(health, "broker")[0]


def test_a_model_that_thinks_for_longer_than_the_first_call_works() -> None:
    write_once(Scripted(ThinkingTookAll()), role=WorkerRole.SMALL)


def test_the_tokens_of_first_calls_and_probes_are_counted_apart_also_of_those_that_fail() -> None:
    def counted(role: WorkerRole) -> float:
        return Scrape.here(metrics.PROBE_TOKENS).sum("trim_probe_tokens_total", role=role)

    small, prm = counted(WorkerRole.SMALL), counted(WorkerRole.PRM)
    write_once(Scripted("One."), role=WorkerRole.SMALL)
    assert counted(WorkerRole.SMALL) == small + 3
    with pytest.raises(EngineDead):
        write_once(Scripted(EngineDead()), role=WorkerRole.SMALL)
    assert counted(WorkerRole.SMALL) == small + 5
    score_once(Scripted())
    with pytest.raises(BadScores):
        score_once(Scripted(scores=2))
    with pytest.raises(EngineDead):
        score_once(Scripted(EngineDead()))
    assert counted(WorkerRole.PRM) == prm + 9 + 9 + 4
