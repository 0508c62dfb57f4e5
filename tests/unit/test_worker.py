"""What a worker reports of a command that it could not carry out to the end."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

from services.generator.__main__ import write
from shared.bus.worker import CommandWorker
from shared.domain.values import Finish
from shared.engines.port import Cancellation, EngineFailed, GeneratedStep, Generator
from shared.messages import GenerateSteps, Message, ScoreSteps, WorkFailed
from shared.settings import Settings
from tests.unit.domain.histories import command_of, running


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
    generator = cast("Generator", engine)
    handle = partial(write, engine=generator, worker="w")
    worker = CommandWorker(Settings(), "small", engine=generator, handle=handle)
    outbox: Any = Outbox()
    worker._publisher = outbox
    settled: list[bool] = []
    now = datetime.now(UTC)
    in_time = command.model_copy(update={"issued_at": now, "expires_at": now + timedelta(minutes=1)})
    worker._work(in_time, lambda *, give_back: settled.append(give_back))
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
