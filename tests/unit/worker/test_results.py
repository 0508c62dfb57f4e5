"""When the results of a command count as confirmed, and how it is settled then."""

from __future__ import annotations

from shared.bus.connection import BrokerUnavailable
from shared.messages import WorkFailed
from shared.worker.results import Results
from tests.unit.worker.working import Outbox, golden

MESSAGE = golden(WorkFailed)


def settled_as(results: Results) -> list[bool]:
    settled: list[bool] = []
    results.when_confirmed(lambda *, requeue: settled.append(requeue))
    return settled


def test_a_command_without_results_is_acknowledged_at_once() -> None:
    results = Results(Outbox(confirms=False))
    assert results.are_confirmed()
    assert settled_as(results) == [False]


def test_a_command_is_acknowledged_with_the_last_confirmation() -> None:
    outbox = Outbox(confirms=False)
    results = Results(outbox)
    results.publish(MESSAGE)
    results.publish(MESSAGE)
    assert not results.are_confirmed()
    settled = settled_as(results)
    assert settled == []
    outbox.confirm()
    assert results.are_confirmed()
    assert settled == [False]


def test_a_command_is_requeued_if_a_result_was_not_published() -> None:
    outbox = Outbox(confirms=False)
    results = Results(outbox)
    results.publish(MESSAGE)
    settled = settled_as(results)
    outbox.confirm(BrokerUnavailable())
    assert settled == [True]


def test_a_command_is_requeued_if_only_its_first_result_was_not_published() -> None:
    outbox = Outbox(confirms=False)
    results = Results(outbox)
    results.publish(MESSAGE)
    outbox.confirm(BrokerUnavailable())
    results.publish(MESSAGE)
    settled = settled_as(results)
    outbox.confirm()
    assert settled == [True]
