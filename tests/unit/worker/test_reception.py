"""What a worker does with a command, by what happened to it before."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from services.generator.writing import Writing
from shared.bus.publisher import SharedPublisher
from shared.bus.signing import UNSIGNED, MessageKeys
from shared.bus.topology import ALONE_HEADER, LOSSES_HEADER, MARK_HEADER, RUNS_HEADER, DeadLetter, Past, past_of
from shared.clock import SYSTEM_CLOCK, ServiceClock
from shared.domain.roles import Author, WorkerRole
from shared.errors import Fault
from shared.messages import GenerateSteps, ScoreSteps, WorkFailed, encode
from shared.observe.health import Health
from shared.worker import reception
from shared.worker.broker_watch import BrokerWatch
from shared.worker.command_worker import CONDITIONS
from shared.worker.executor import Executor
from shared.worker.quarantine import ALONE_AT, GUILTY_AT, QUIET_LOOKS, SUSPECT_AT
from shared.worker.reception import RENEW_AT, Reception
from shared.worker.running_work import RunningWork
from tests.unit.worker.working import Outbox, Scripted, golden

COMMAND = golden(GenerateSteps, reports_stretch=False, issued_at=SYSTEM_CLOCK.now())
COMMAND = COMMAND.model_copy(update={"expires_at": COMMAND.issued_at.replace(year=2999)})


def delivery(
    *, losses: int = 0, alone: int = 0, is_marked: bool = False, runs: int | None = None, number: int = 0
) -> Mock:
    """Deliver a command that was lost so often, on RabbitMQ or after it was published again."""
    if alone or is_marked:
        runs = runs or 0
    command = COMMAND.model_copy(update={"request_number": number, "id": golden(ScoreSteps).id} if number else {})
    headers = {"x-delivery-count": losses} if runs is None else Past(runs, losses, alone, is_marked).headers
    return Mock(body=encode(command), delivery_info={"redelivered": runs is None and losses > 0}, headers=headers)


class Worker:
    """The reception of a worker whose pool and loop run everything at once."""

    def __init__(self, *, is_draining: bool = False, keys: MessageKeys = UNSIGNED) -> None:
        self.outbox = Outbox()
        self.engine = Scripted("One.")
        health = Health(role="small", node="small-0", conditions=CONDITIONS)
        self.watch = BrokerWatch(health)
        self.running = RunningWork()
        executor = Executor(
            role=WorkerRole.SMALL, worker="small-0", clock=SYSTEM_CLOCK, running=self.running,
            begin=partial(Writing, engine=self.engine),
        )  # fmt: skip
        self.reception = Reception(
            WorkerRole.SMALL, executor, cast("SharedPublisher", self.outbox), self.watch, ServiceClock(),
            concurrency=8, silence_s=15, is_draining=lambda: is_draining, follow=lambda: None, on_dead=lambda: None,
            keys=keys,
        )  # fmt: skip

        def call(function: Callable[..., None], *arguments: Any, **named: Any) -> None:
            function(*arguments, **named)

        pool = SimpleNamespace(apply_async=lambda function, arguments: function(*arguments))
        consumer = SimpleNamespace(pool=pool, call_soon_ack=call, follow=lambda: None)
        self.consumer = cast("Any", consumer)
        self.receive = self.reception.strategy(Mock(), Mock(), self.consumer)

    def lose_connection(self) -> None:
        self.watch.on_connected()
        self.watch.on_lost(OSError())
        self.watch.on_lost(OSError())  # A new one cannot be made.

    @property
    def returned(self) -> list[Past]:
        return [each.past for each in self.outbox.returned]


@pytest.mark.parametrize(
    ("info", "headers", "past"),
    [
        ({}, {}, Past()),
        ({"redelivered": True}, {}, Past(runs=1, losses=1)),
        ({"redelivered": True}, {"x-delivery-count": 3}, Past(runs=3, losses=3)),
        ({"redelivered": False}, {RUNS_HEADER: 2, LOSSES_HEADER: 1}, Past(runs=2, losses=1)),
        ({"redelivered": True}, {"x-delivery-count": 2, RUNS_HEADER: 2, LOSSES_HEADER: 1}, Past(runs=4, losses=3)),
        ({"pgmq_message": {"read_ct": 1}}, {}, Past()),
        ({"pgmq_message": {"read_ct": 3}}, {RUNS_HEADER: 1, LOSSES_HEADER: 0}, Past(runs=3, losses=2)),
        ({}, {LOSSES_HEADER: 3, ALONE_HEADER: 1, MARK_HEADER: 1}, Past(losses=3, alone=1, is_marked=True)),
        (
            {"redelivered": True},
            {"x-delivery-count": 2, LOSSES_HEADER: 3, ALONE_HEADER: 1, MARK_HEADER: 1},
            Past(runs=2, losses=5, alone=2),
        ),
        ({"redelivered": True}, {LOSSES_HEADER: 3, ALONE_HEADER: 1, MARK_HEADER: 0}, Past(runs=1, losses=4, alone=1)),
        ({}, {RUNS_HEADER: "many", LOSSES_HEADER: -1}, Past()),
    ],
)
def test_both_brokers_count_how_often_a_command_was_lost(
    info: dict[str, Any], headers: dict[str, Any], past: Past
) -> None:
    assert past_of(Mock(delivery_info=info, headers=headers)) == past


@pytest.mark.parametrize("alone", range(GUILTY_AT + 1))
@pytest.mark.parametrize("losses", [0, SUSPECT_AT - 1, SUSPECT_AT, ALONE_AT, 19])
def test_the_losses_of_a_command_decide_what_becomes_of_it(losses: int, alone: int) -> None:
    losses += alone
    worker = Worker()
    message = delivery(losses=losses, alone=alone)
    worker.receive(message)
    is_guilty = alone >= GUILTY_AT
    assert worker.reception.quarantine.is_open == (losses < SUSPECT_AT or is_guilty)
    assert worker.engine.calls == (losses < SUSPECT_AT)
    put_back_marked = [Past(0 if alone else losses, losses, alone, is_marked=True)]
    assert worker.returned == (put_back_marked if losses >= ALONE_AT and not is_guilty else [])
    for past in worker.returned:
        worker.receive(delivery(losses=past.losses, alone=past.alone, is_marked=past.is_marked, runs=past.runs))
    for _ in range(3 * QUIET_LOOKS):
        worker.reception.quarantine.look()
    assert worker.reception.quarantine.is_open
    assert worker.engine.calls == (not is_guilty)
    verdicts = [each for each in worker.outbox.messages if isinstance(each, WorkFailed)]
    assert [(each.code, each.retryable, each.fault, each.step) for each in verdicts] == (
        [("crashes_workers", False, Fault.INPUT, COMMAND.first_step)] if is_guilty else []
    )
    message.ack.assert_called_once()
    message.requeue.assert_not_called()


def test_a_busy_worker_puts_a_marked_suspect_back_unmarked() -> None:
    worker = Worker()
    worker.receive(delivery(losses=SUSPECT_AT, number=1))
    message = delivery(losses=ALONE_AT, alone=1, is_marked=True)
    worker.receive(message)
    assert (worker.engine.calls, worker.returned) == (0, [Past(losses=ALONE_AT, alone=1)])
    message.ack.assert_called_once()


def test_an_innocent_command_that_comes_while_a_suspect_waits_goes_back_as_it_came() -> None:
    worker = Worker()
    worker.receive(delivery(losses=SUSPECT_AT))
    message = delivery(losses=1, runs=7, number=1)
    worker.receive(message)
    assert (worker.engine.calls, worker.returned) == (0, [Past(runs=7, losses=1)])
    message.ack.assert_called_once()


@pytest.mark.parametrize("is_busy", [False, True])
@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_suspect_that_would_not_reach_the_engine_is_dropped_at_once(is_busy: bool, is_cancelled: bool) -> None:
    worker = Worker()
    if is_busy:
        worker.receive(delivery(losses=SUSPECT_AT, number=1))
    message = delivery(losses=SUSPECT_AT)
    if is_cancelled:
        worker.running.cancel(COMMAND.problem_id, before_epoch=COMMAND.epoch + 1)
    else:
        message.body = encode(COMMAND.model_copy(update={"expires_at": COMMAND.issued_at}))
    worker.receive(message)
    assert (worker.engine.calls, worker.outbox.messages, worker.outbox.returned) == (0, [], [])
    message.ack.assert_called_once()


def test_a_stopping_worker_returns_what_it_is_still_given() -> None:
    worker = Worker(is_draining=True)
    message = delivery(losses=9, alone=GUILTY_AT, is_marked=True, runs=9)
    worker.receive(message)
    assert (worker.returned, worker.outbox.messages) == ([Past(runs=9, losses=9, alone=GUILTY_AT)], [])
    message.ack.assert_called_once()


def test_what_a_lost_connection_explains_is_not_held_against_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "LEAVE_S", 0.0)
    worker = Worker()
    for _ in range(GUILTY_AT):
        worker.lose_connection()
    worker.receive(delivery(losses=GUILTY_AT))
    assert (worker.engine.calls, worker.reception.quarantine.is_open) == (1, True)


@pytest.mark.parametrize(("counted", "losses"), [(0, 4), (1, 4), (2, 4), (3, 5)])
def test_a_lost_connection_explains_nothing_that_was_counted_before_the_command_was_published_again(
    counted: int, losses: int
) -> None:
    worker = Worker(is_draining=True)
    for _ in range(2):
        worker.lose_connection()
    message = delivery(runs=6, losses=4)
    message.headers["x-delivery-count"] = counted
    worker.receive(message)
    assert worker.returned == [Past(runs=6 + counted, losses=losses)]


def test_a_worker_leaves_what_comes_again_after_a_lost_connection_to_those_that_run_it() -> None:
    worker = Worker()
    worker.lose_connection()
    first, second = delivery(losses=1), delivery(losses=1, number=1)
    worker.receive(first)
    worker.reception.look()
    worker.receive(second)
    worker.lose_connection()
    worker.reception.look()
    assert (worker.engine.calls, worker.returned) == (0, [Past(runs=1, losses=0)]), "the second is delivered elsewhere"
    first.ack.assert_called_once()
    worker.receive(delivery(number=2))
    assert worker.engine.calls == 1, "a new command runs"


def test_a_suspect_whose_connection_was_lost_is_left_to_others() -> None:
    worker = Worker()
    worker.receive(delivery(losses=ALONE_AT, is_marked=True))
    worker.lose_connection()
    for _ in range(QUIET_LOOKS):
        worker.reception.quarantine.look()
    assert (worker.engine.calls, worker.returned, worker.reception.quarantine.is_open) == (0, [], True)


def test_a_command_that_is_known_here_is_no_suspect() -> None:
    worker = Worker()
    worker.receive(delivery())
    message = delivery(losses=GUILTY_AT)
    worker.receive(message)
    assert worker.engine.calls == 1
    assert not any(isinstance(each, WorkFailed) for each in worker.outbox.messages)
    message.ack.assert_called_once()


def test_a_worker_is_silent_once_nothing_has_come_for_long_although_nothing_is_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker, now = Worker(), SYSTEM_CLOCK.monotonic()
    monkeypatch.setattr(ServiceClock, "monotonic", lambda _: now)
    assert not worker.reception.is_silent()
    now += 16
    worker.receive(delivery())
    assert not worker.reception.is_silent(), "something came"
    now += 16
    assert worker.reception.is_silent()
    assert not worker.reception.is_silent(), "the time began again"
    now += 16
    monkeypatch.setattr(Reception, "_count_open", lambda _: 1)
    assert not worker.reception.is_silent(), "it may have no room"


@pytest.mark.parametrize("lost", [RENEW_AT - 1, RENEW_AT])
def test_a_command_that_the_broker_would_soon_bury_is_published_again(
    monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    monkeypatch.setattr(reception, "LEAVE_S", 0.0)
    worker = Worker()
    for _ in range(lost):
        worker.lose_connection()
    message = delivery(losses=lost)
    worker.receive(message)
    is_worn = lost >= RENEW_AT
    assert (worker.engine.calls, worker.returned) == (not is_worn, [Past(runs=lost)] if is_worn else [])
    message.ack.assert_called_once()


@pytest.mark.parametrize("kind", [GenerateSteps, ScoreSteps])
def test_a_command_that_is_buried_is_reported_to_its_problem(kind: type[GenerateSteps | ScoreSteps]) -> None:
    worker = Worker()
    command = golden(kind, **({} if kind is ScoreSteps else {"author": Author.LARGE}))
    message = Mock(body=encode(command), delivery_info={}, headers={})
    worker.receive(message)
    failed, letter = worker.outbox.messages
    assert isinstance(failed, WorkFailed)
    assert (failed.problem_id, failed.request_number) == (command.problem_id, command.request_number)
    assert (failed.code, failed.retryable, failed.step) == ("command_buried", True, command.first_step)
    assert (failed.role, failed.drafts) == (
        ("prm", command.drafts) if isinstance(command, ScoreSteps) else ("large", ())
    )
    assert isinstance(letter, DeadLetter)
    message.ack.assert_called_once()


def test_a_command_without_a_task_header_is_reported_too() -> None:
    worker = Worker()
    worker.reception.bury_unusable(worker.consumer, Mock(body=encode(COMMAND), headers={}), "it has no task header")
    failed, letter = worker.outbox.messages
    assert isinstance(failed, WorkFailed)
    assert "it has no task header" in failed.detail
    assert isinstance(letter, DeadLetter)


def test_a_forged_command_is_buried_and_its_problem_learns_nothing_of_it() -> None:
    keys = MessageKeys({"new": "n" * 32}, deployment="trim")
    worker = Worker(keys=keys)
    worker.receive(delivery())
    [letter] = worker.outbox.messages
    assert letter == DeadLetter(
        WorkerRole.SMALL, encode(COMMAND), "it is not signed, which TRIM_MESSAGE_KEYS requires", None
    )
    signed = delivery()
    signed.headers = {**signed.headers, **keys.sign(signed.body)}
    worker.receive(signed)
    assert len(worker.outbox.messages) > 1
