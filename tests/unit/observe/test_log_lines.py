"""Every log line that concerns a problem names it, and its command if there is one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import pytest
import structlog

from services.generator.writing import Writing
from services.orchestrator import applying, batches, policy_cache, receiving, shadowing, sweeping
from services.orchestrator.batches import apply_deliveries
from services.orchestrator.policy_cache import PolicyCache
from services.orchestrator.setting_aside import SetAside
from services.prm.scoring import ScoringWork
from shared.bus.consumer import Delivery
from shared.bus.topology import Past
from shared.domain.roles import Author, WorkerRole
from shared.engines.port import EngineDead, EngineFailed, RequestRefused
from shared.messages import Command, GenerateSteps, Message, ScoreSteps, StepsGenerated, WorkFailed, encode
from shared.observe.health import Health
from shared.policies.threshold import Threshold
from shared.settings import Settings
from shared.worker import command_worker, execution, executor, reception, settling
from shared.worker.broker_watch import BrokerWatch
from shared.worker.command_worker import CONDITIONS, CommandWorker
from simulation.simulated_service import SimulatedService
from simulation.workers import Engines
from simulation.world import World, WorldGenerator, WorldScorer
from tests.unit.worker.working import Outbox, Scripted, golden

COMMAND = golden(GenerateSteps, reports_stretch=False)
SCORING = golden(ScoreSteps)
THRESHOLD = Threshold(threshold=0.5)

Line = dict[str, Any]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[Line]:
    """Lines of the worker and the orchestrator, with the ids that are bound where they are logged."""
    capture = structlog.testing.LogCapture()
    logger = structlog.wrap_logger(
        None, processors=[structlog.contextvars.merge_contextvars, capture], wrapper_class=structlog.BoundLogger
    )
    workers = (command_worker, reception, executor, execution, settling)
    for module in (*workers, applying, batches, receiving, sweeping, shadowing, policy_cache):
        monkeypatch.setattr(module, "_log", logger)
    entries: list[Line] = capture.entries  # type: ignore[assignment]
    return entries


# The worker


class Unreliable(Outbox):
    """Raises an error instead of publishing."""

    def publish(self, *messages: Message) -> Future[None]:
        raise ZeroDivisionError


def make_worker(monkeypatch: pytest.MonkeyPatch, engine: Scripted, role: WorkerRole, outbox: Outbox) -> CommandWorker:
    settings = Settings(node_name="worker-1")
    health = Health(role=role, node="worker-1", conditions=CONDITIONS)
    begin = partial(ScoringWork if role is WorkerRole.PRM else Writing, engine=engine)  # type: ignore[arg-type]
    worker = CommandWorker(settings, role, health, engine=engine, begin=begin, probe=lambda _: None)
    monkeypatch.setattr(worker, "_publisher", outbox, raising=False)
    monkeypatch.setattr(worker, "_watch", BrokerWatch(health), raising=False)
    monkeypatch.setattr(worker, "_die", lambda: None)
    return worker


@pytest.mark.parametrize("command", [COMMAND, SCORING])
@pytest.mark.parametrize(
    ("fault", "outbox", "events"),
    [
        (EngineFailed(), Outbox(), ["command_failed"]),
        (RequestRefused(), Outbox(), ["command_failed"]),
        (KeyError("secret"), Outbox(), ["command_crashed"]),
        (EngineDead(), Outbox(), ["engine_died"]),
        (EngineFailed(), Unreliable(), ["command_failed", "command_unreported"]),
    ],
)
def test_a_command_that_fails_is_named_in_each_line(  # noqa: PLR0917 - pytest passes arguments by name
    monkeypatch: pytest.MonkeyPatch,
    lines: list[Line],
    command: Command,
    fault: Exception,
    outbox: Outbox,
    events: list[str],
) -> None:
    command = command.model_copy(update={"expires_at": command.expires_at.replace(year=2999)})
    role = WorkerRole.PRM if isinstance(command, ScoreSteps) else WorkerRole.SMALL
    worker = make_worker(monkeypatch, Scripted(fault), role, outbox)
    worker._make_reception()._execute(command, encode(command), Past(), lambda *, requeue: None)
    assert [line["event"] for line in lines] == events
    for line in lines:
        assert (line["problem_id"], line["command_id"]) == (str(command.problem_id), str(command.id))
    assert structlog.contextvars.get_contextvars() == {}


class Broken(Mock):
    """A message of a connection that is broken."""

    def ack(self) -> None:
        raise ConnectionResetError

    def requeue(self) -> None:
        raise ConnectionResetError


def test_a_command_that_cannot_be_settled_and_one_on_the_wrong_queue_are_named(
    monkeypatch: pytest.MonkeyPatch, lines: list[Line]
) -> None:
    def call_now(call: Callable[..., None], *arguments: Any, **named: Any) -> None:
        call(*arguments, **named)

    pool = SimpleNamespace(apply_async=lambda call, arguments: call(*arguments))
    consumer = SimpleNamespace(pool=pool, call_soon_ack=call_now)
    for role in (WorkerRole.SMALL, WorkerRole.PRM):
        worker = make_worker(monkeypatch, Scripted(), role, Outbox())
        worker._clock.set(COMMAND.expires_at + timedelta(days=1))
        worker._fitness._spans.clear()
        receive = worker._make_reception().strategy(Mock(), Mock(), consumer)
        receive(Broken(body=encode(COMMAND), delivery_info={}))
    assert [line["event"] for line in lines] == [
        "command_expired", "command_dropped", "message_not_settled", "message_buried", "message_not_settled",
    ]  # fmt: skip
    for line in lines:
        assert (line["problem_id"], line["command_id"]) == (str(COMMAND.problem_id), str(COMMAND.id))


# The orchestrator


def running(count: int) -> tuple[SimulatedService, list[UUID]]:
    """Start problems."""
    world = World()
    small, large = (WorldGenerator(world, author) for author in Author)
    service = SimulatedService(Engines(small=small, large=large, prm=WorldScorer(world)))
    ids = [service.submit(f"What is {number}?", THRESHOLD) for number in range(count)]
    service.sweep()
    return service, ids


def hear(service: SimulatedService, *messages: Message) -> None:
    deliveries = [Delivery(body=encode(message), is_redelivered=False, deliveries=1) for message in messages]
    policies, aside = PolicyCache(service.store), SetAside(monotonic=service.clock.clock.monotonic)
    apply_deliveries(service.store, deliveries, aside=aside, policies=policies, now=lambda: service.clock.now)


def test_an_event_that_cannot_be_applied_is_named_in_each_line_and_no_other_is(
    monkeypatch: pytest.MonkeyPatch, lines: list[Line]
) -> None:
    service, [good, bad] = running(2)
    apply = applying.apply

    def crash(state: Any, *arguments: Any, **named: Any) -> Any:
        if state.problem_id == bad:
            raise ZeroDivisionError
        return apply(state, *arguments, **named)

    monkeypatch.setattr(applying, "apply", crash)
    failed = golden(WorkFailed, problem_id=good, epoch=0, request_number=0, step=0, retryable=False, drafts=())
    hear(service, failed, failed.model_copy(update={"problem_id": bad}))
    found = {line["event"]: line.get("problem_id") for line in lines}
    assert found == {
        "batch_isolated": None, "problem_ended": str(good), "event_failed": str(bad), "message_buried": str(bad),
    }  # fmt: skip


@pytest.mark.parametrize("message", [golden(StepsGenerated), COMMAND])
def test_an_event_of_an_unknown_problem_and_a_command_on_the_events_queue_are_named(
    lines: list[Line], message: Message
) -> None:
    service, _ = running(1)
    hear(service, message)
    [line] = lines
    assert line["event"] == "message_buried"
    assert line["problem_id"] == str(message.problem_id)  # type: ignore[union-attr]


def test_a_problem_that_cannot_be_read_or_swept_is_named_in_each_line(
    monkeypatch: pytest.MonkeyPatch, lines: list[Line]
) -> None:
    service, [unreadable] = running(1)
    service.store.damage(unreadable, "ValueError")
    hear(service, golden(WorkFailed, problem_id=unreadable))
    assert [line["event"] for line in lines] == ["problem_unreadable", "problem_ended"]
    assert {line["problem_id"] for line in lines} == {str(unreadable)}

    lines.clear()
    bad = service.submit("What?", THRESHOLD)
    monkeypatch.setattr(applying, "apply", Mock(side_effect=ZeroDivisionError))
    service.sweep()
    assert [line["event"] for line in lines] == [
        "controls_isolated", "control_failed", "problem_unreadable", "problem_ended",
    ]  # fmt: skip
    assert {line["problem_id"] for line in lines[1:]} == {str(bad)}


# The format

LOGGING = """
from shared import log
from shared.settings import Settings

log.configure(Settings(log_format="json"), role="small")
question = "a secret"
with log.about(__import__("uuid").UUID(int=1), command_id=__import__("uuid").UUID(int=2)):
    try:
        try:
            {}["first"]
        except KeyError as error:
            raise ValueError("broken") from error
    except ValueError:
        log.get_logger("test").exception("command_crashed", kind="x")
        __import__("logging").getLogger("celery").exception("Lost")
"""


def test_lines_in_json_have_ids_and_exceptions_as_fields_and_no_local_variables() -> None:
    ended = subprocess.run([sys.executable, "-c", LOGGING], capture_output=True, text=True, check=True, timeout=60)
    ours, celerys = map(json.loads, ended.stderr.splitlines())
    assert (ours["event"], ours["level"], ours["role"], ours["kind"]) == ("command_crashed", "error", "small", "x")
    assert (ours["problem_id"], ours["command_id"]) == (str(UUID(int=1)), str(UUID(int=2)))
    assert celerys["event"] == "Lost"
    for line in (ours, celerys):
        error, cause = line["exception"]
        assert (error["exc_type"], error["exc_value"]) == ("ValueError", "broken")
        assert cause["exc_type"] == "KeyError"
        assert [set(frame) for frame in error["frames"]] == [{"filename", "lineno", "name"}]
    assert "a secret" not in ended.stderr
