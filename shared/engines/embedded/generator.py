"""Writes steps with a model on ONNX Runtime; sequences join and leave the batch between two tokens."""

from __future__ import annotations

import codecs
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np

from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.engines.embedded.engine import EmbeddedEngine, Member
from shared.engines.embedded.runtime import Floats
from shared.engines.embedded.sampling import draw, log_probabilities
from shared.engines.port import GeneratedStep, GenerationRequest, Meter
from shared.engines.solution_ids import SolutionIds
from shared.engines.step_assembly import StepAssembler


@dataclass(kw_only=True, eq=False)
class _Writing(Member[GeneratedStep | None]):
    """A call of `stream`; its last result is `None`."""

    request: GenerationRequest
    assembler: StepAssembler
    solution: SolutionIds
    """Ids of the question and the steps; `ids` is the list in it."""
    decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def on_first_run(self) -> None:
        """Count the input."""
        self.assembler.count_input(len(self.ids), self.cached)


class EmbeddedGenerator(EmbeddedEngine[_Writing]):
    """Writes steps with a language model."""

    architecture = "Qwen2ForCausalLM"

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
    ) -> Generator[GeneratedStep, None, None]:
        """Yield steps as they finish; see `Generator.stream`.

        A run of the model that is under way when the caller leaves gives the call no token.
        """
        solution = SolutionIds(self._encoder, request.question, self.prompt(request.question), request.prefix)
        self._refuse_full(solution.ids)
        call = _Writing(
            problem_id=request.problem_id,
            ids=solution.ids,
            solution=solution,
            request=request,
            cancellation=cancellation,
            assembler=StepAssembler(request, meter),
        )
        yield from call.assembler.deliver(self._steps(call))

    def step_ids(self, text: str) -> list[int]:
        """Encode a finished step, as the model reads it before the next one."""
        return self._encoder.step_ids(text)

    def _steps(self, call: _Writing) -> Generator[GeneratedStep, None, None]:
        with self._loop.submitted(call):
            while (step := call.wait(call.request.step_timeout_s)) is not None:
                yield step
        if not call.assembler.is_done:
            self._refuse_full(call.ids)

    def _refuse_full(self, ids: Sequence[int]) -> None:
        """Raise `InputTooLong` if the context has no room for a token after some ids."""
        self._model.refuse_past(self._model.max_tokens - 1, ids)

    def _turn(self, arrived: list[_Writing]) -> bool:
        """Let waiting calls join, or decode one token for each call that has joined."""
        self._waiting = [call for call in self._waiting + arrived if not call.has_left()]
        for call in [call for call in self._batch.rows if call.has_left()]:
            self._batch.leave(call)
        room = self._max_batch - len(self._batch.rows)
        joining, self._waiting = self._waiting[:room], self._waiting[room:]
        if joining:
            joined = self._batch.join(joining)
            self._on_run(len(self._batch.rows) / self._max_batch)
            self._take_tokens([call for call, _ in joined], np.concatenate([logits for _, logits in joined]))
        elif self._batch.rows:
            self._on_run(len(self._batch.rows) / self._max_batch)
            self._take_tokens(list(self._batch.rows), self._batch.decode())
        return bool(self._batch.rows or self._waiting)

    def _take_tokens(self, calls: Sequence[_Writing], logits: Floats) -> None:
        """Draw the next token for each call from its line of logits."""
        tokens = draw(logits, [call.request.sampling for call in calls], [len(call.ids) for call in calls])
        logprobs: list[tuple[float] | None] = [None] * len(calls)
        if asking := [index for index, call in enumerate(calls) if call.request.reports_confidence]:
            found = log_probabilities(logits[asking], [tokens[index] for index in asking])
            for index, logprob in zip(asking, found, strict=True):
                logprobs[index] = (logprob,)
        for call, token, known in zip(calls, tokens, logprobs, strict=True):
            if (step := self._step_with(call, token, known)) is not None:
                self._hand_over(call, step)

    def _step_with(self, call: _Writing, token: int, logprobs: tuple[float] | None) -> GeneratedStep | None:
        """Append a token; return the step that it finishes, if any."""
        if token in self._model.end_ids:
            return call.assembler.end(logprobs=logprobs)
        call.ids.append(token)
        step = call.assembler.feed(call.decoder.decode(self._model.token_bytes[token]), logprobs=logprobs)
        if step is None and len(call.ids) >= self._model.max_tokens:
            return call.assembler.cut()
        return step

    def _hand_over(self, call: _Writing, step: GeneratedStep) -> None:
        """Hand a step to the caller, and continue unless it was the last one."""
        if step.finish is Finish.SEPARATOR:
            call.solution.finish_step(step.text, rest=call.assembler.rest)
        call.answer(step)
        if call.assembler.is_done or len(call.ids) >= self._model.max_tokens:
            self._batch.leave(call)
            call.is_over = True
            call.answer(None)
