"""Surroundings of a worker for tests: scripted engines, and an outbox whose confirms the test controls."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from services.generator.writing import Writing
from services.prm.scoring import ScoringWork
from shared.bus.topology import ReturnedCommand
from shared.cancellation import Cancellation
from shared.clock import Clock
from shared.domain.drafts import Finish
from shared.domain.roles import WorkerRole
from shared.engines.port import (
    GeneratedStep,
    GenerationRequest,
    Meter,
    Scores,
    ScoringRequest,
)
from shared.errors import TrimError
from shared.messages import Command, GenerateSteps, Message, ScoreSteps, decode, derive_work_id
from shared.worker.execution import Context, Execution
from shared.worker.fitness import AlwaysFit, Judge
from shared.worker.results import Results

GOLDEN = Path(__file__).parents[1] / "golden"

Kind = TypeVar("Kind", bound=Message)


def golden(kind: type[Kind], **changes: object) -> Kind:
    """Return the golden example of a kind of message, with some fields changed."""
    name = kind.model_fields["kind"].default
    message = decode((GOLDEN / f"{name}.v1.json").read_bytes())
    assert isinstance(message, kind)
    return message.model_copy(update=changes)


class Outbox:
    """Collects published messages; the test decides when they are confirmed."""

    def __init__(self, *, confirms: bool = True) -> None:
        self.messages: list[Message] = []
        self.returned: list[ReturnedCommand] = []
        self.unconfirmed: list[Future[None]] = []
        self.confirms = confirms

    def publish(self, *messages: Message | ReturnedCommand) -> Future[None]:
        self.messages += [each for each in messages if not isinstance(each, ReturnedCommand)]
        self.returned += [each for each in messages if isinstance(each, ReturnedCommand)]
        published: Future[None] = Future()
        self.unconfirmed.append(published)
        if self.confirms:
            self.confirm()
        return published

    def confirm(self, error: Exception | None = None) -> None:
        unconfirmed, self.unconfirmed = self.unconfirmed, []
        for each in unconfirmed:
            each.set_exception(error) if error else each.set_result(None)


Step = str | Exception | Callable[[], object]
"""A step's text, an error in the middle of a step, or something that happens between two steps."""


class Scripted:
    """An engine that writes given steps, and scores every step 0.5."""

    model_id = "scripted"

    def __init__(self, *script: Step, scores: int | None = None) -> None:
        self._script = script
        self._scores = scores
        self.calls = 0

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
    ) -> Generator[GeneratedStep, None, None]:
        self.calls += 1
        meter.prompt_tokens, meter.cached_tokens = 30, 10
        for step in self._script:
            meter.tokens = 2
            cancellation.raise_if_cancelled()
            if isinstance(step, Exception):
                raise step
            if callable(step):
                step()
                continue
            prompt_tokens, cached_tokens = meter.prompt_tokens, meter.cached_tokens
            meter.clear()
            yield GeneratedStep(
                text=step,
                finish=Finish.SEPARATOR,
                tokens=3,
                prompt_tokens=prompt_tokens,
                cached_tokens=cached_tokens,
            )

    def score(self, request: ScoringRequest, cancellation: Cancellation, meter: Meter) -> Scores:
        self.calls += 1
        for step in self._script:
            meter.tokens = 4
            if isinstance(step, Exception):
                raise step
            if callable(step):
                step()
        count = request.newest if self._scores is None else self._scores
        return Scores(values=[0.5] * count, tokens=9)

    def check(self) -> None: ...

    def close(self) -> None: ...


def carry_out(
    command: Command,
    engine: Scripted,
    *,
    outbox: Outbox | None = None,
    cancellation: Cancellation | None = None,
    late_s: float = 1.0,
    runs: int = 0,
    judge: Judge | None = None,
    monotonic: Callable[[], float] = lambda: 0.0,
    stretch_s: float = math.inf,
) -> list[Message]:
    """Carry out a command some seconds after it was issued; return what is published."""
    outbox = outbox or Outbox()
    now = command.issued_at + timedelta(seconds=late_s)
    context = Context(
        worker="worker-1",
        clock=Clock(now=lambda: now, monotonic=monotonic),
        cancellation=cancellation or Cancellation(),
        results=Results(outbox),
        work_id=derive_work_id(command, worker="worker-1", runs=runs),
    )
    role = WorkerRole.PRM if isinstance(command, ScoreSteps) else WorkerRole(command.author)

    def begin(command: Command, context: Context) -> Writing | ScoringWork:
        if isinstance(command, GenerateSteps):
            return Writing(command, context, engine=engine, stretch_s=stretch_s)
        return ScoringWork(command, context, engine=engine)

    execution = Execution(command, context, role=role, begin=begin, judge=judge)
    for _ in execution.run():
        pass
    return outbox.messages


class Judged(AlwaysFit):
    """Becomes unfit at the given question, or never."""

    def __init__(self, *, unfit_at: int = 100, silence: bool | None = None) -> None:
        self.asked = 0
        self.notes: list[str] = []
        self.is_fit = unfit_at > 0
        self._unfit_at = unfit_at
        self._silence = silence

    def judge(self, _error: TrimError) -> bool:
        self.asked += 1
        self.is_fit = self.asked < self._unfit_at
        return self.is_fit

    def judge_silence(self, _error: TrimError, since_s: float) -> bool | None:
        assert since_s == golden(GenerateSteps).step_timeout_s
        return self._silence

    def note_success(self) -> None:
        self.notes.append("success")

    def note_failure(self, error: TrimError) -> None:
        self.notes.append(error.code)
