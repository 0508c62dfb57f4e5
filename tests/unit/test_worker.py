"""What a worker reports of a command that it could not carry out to the end."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

from services.generator.__main__ import write
from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.engines.port import EngineFailed, GeneratedStep, Generator
from shared.messages import Command, GenerateSteps, Message, ScoreSteps, WorkFailed
from shared.settings import Settings
from shared.worker.command_worker import CommandWorker, Handle, WorkerRole
from tests.unit.machine.histories import command_of, running


class Outbox:
    """Stands in for the publisher: what is handed in is confirmed at once."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def publish(self, message: Message) -> Future[None]:
        self.messages.append(message)
        confirmed: Future[None] = Future()
        confirmed.set_result(None)
        return confirmed


class Failing:
    """An engine that fails after some steps."""

    model_id = "failing"

    def __init__(self, *steps: str) -> None:
        self._steps = steps

    def stream(self, _request: object, _cancellation: Cancellation) -> Iterator[GeneratedStep]:
        for text in self._steps:
            yield GeneratedStep(text=text, finish=Finish.SEPARATOR, tokens=3, prompt_tokens=0, cached_tokens=0)
        raise EngineFailed


def carried_out(command: GenerateSteps, engine: Failing) -> list[Message]:
    now = datetime.now(UTC)
    in_time = command.model_copy(update={"issued_at": now, "expires_at": now + timedelta(minutes=1)})
    generator = cast("Generator", engine)
    return published("small", in_time, partial(write, engine=generator, worker="w"))


def published(role: WorkerRole, command: Command, handle: Handle) -> list[Message]:
    """Have a worker take a command; return what it publishes."""
    worker = CommandWorker(Settings(), role, engine=cast("Generator", Failing()), handle=handle)
    outbox: Any = Outbox()
    worker._publisher = outbox
    settled: list[bool] = []
    worker._work(command, lambda *, give_back: settled.append(give_back))
    assert settled == [False]
    return outbox.messages  # type: ignore[no-any-return]


def test_a_fault_names_the_first_step_that_was_not_written() -> None:
    *sent, fault = carried_out(command_of(running(lookahead=4)), Failing("One.", "Two."))
    assert [len(message.drafts) for message in sent if isinstance(message, ScoreSteps)] == [1, 1]
    assert isinstance(fault, WorkFailed)
    assert (fault.step, fault.code, fault.retryable) == (2, "engine_failed", True)


def test_a_fault_before_the_first_step_names_that() -> None:
    [fault] = carried_out(command_of(running(lookahead=4)), Failing())
    assert isinstance(fault, WorkFailed)
    assert fault.step == 0


def test_steps_that_the_prm_had_no_time_for_are_reported_as_lost() -> None:
    written = carried_out(command_of(running()), Failing("One."))
    scoring = next(message for message in written if isinstance(message, ScoreSteps))
    late = scoring.model_copy(update={"expires_at": datetime.now(UTC) - timedelta(seconds=1)})

    def handle(*_: object) -> None:
        raise AssertionError("it came too late")

    [fault] = published("prm", late, handle)
    assert isinstance(fault, WorkFailed)
    assert (fault.role, fault.code, fault.retryable) == ("prm", "scores_too_late", True)
    assert (fault.drafts, fault.step, fault.request_number) == (scoring.drafts, 0, scoring.request_number)


def test_what_nobody_foresaw_is_reported_without_its_words() -> None:
    def handle(*_: object) -> None:
        raise KeyError("secret")

    now = datetime.now(UTC)
    command = command_of(running()).model_copy(update={"expires_at": now + timedelta(minutes=1)})
    [fault] = published("small", command, handle)
    assert isinstance(fault, WorkFailed)
    assert (fault.code, fault.detail, fault.retryable) == ("internal", "The small worker failed (KeyError).", True)
