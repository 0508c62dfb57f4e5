"""Writes steps with a model in vLLM."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Literal, assert_never

from tokenizers.decoders import DecodeStream
from vllm import SamplingParams
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind

from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.domain.text import SEPARATOR
from shared.engines.port import EngineFailed, EngineStopped, GeneratedStep, GenerationRequest, Meter, ModelUnusable
from shared.engines.prompts import fill, request_seed, solving
from shared.engines.step_assembly import StepAssembler
from shared.engines.vllm.model import Model, OnModel


@dataclass(kw_only=True)
class _Writing:
    """A call of `stream`, token by token."""

    model: Model
    assembler: StepAssembler
    settled: list[int]
    """Ids of the question and all finished steps, as a later call will encode them. Each step is encoded by itself, so
    they only grow, and what the engine computed of them is in its cache for each later call."""
    ids: list[int] = field(default_factory=list)
    """Ids in the engine's context."""
    decoder: DecodeStream = field(default_factory=lambda: DecodeStream(skip_special_tokens=True))
    is_cut: bool = False
    """Whether nothing more is taken from the current request: the call is over, or the request continues other ids than
    those with which a later call would begin, because a step was cut, began with blank text, or was written with other
    tokens than the tokenizer chooses."""
    has_input: bool = False
    """Whether the input of the call was counted."""

    def __post_init__(self) -> None:
        self.ids = list(self.settled)

    @property
    def is_over(self) -> bool:
        return self.assembler.is_done or len(self.settled) >= self.model.max_tokens

    @property
    def is_single(self) -> bool:
        """Whether the call writes a single step, with requests that stop at a separator."""
        return self.assembler.request.max_steps == 1

    @property
    def room(self) -> int:
        """Number of tokens that a request may write: the rest of the context and, for a single step, of its limit."""
        left = self.model.max_tokens - len(self.ids)
        if self.is_single:
            left = min(left, self.assembler.request.max_step_tokens - self.assembler.step_tokens)
        return left

    def begin_request(self) -> list[int]:
        """Return the ids that the next request continues."""
        if self.is_cut:
            self.ids = list(self.settled)
            self.decoder = DecodeStream(skip_special_tokens=True)
            self.assembler.restart_step()
            self.is_cut = False
        return self.ids

    def count_aborted(self, output: RequestOutput) -> None:
        """Count what the engine wrote for a request that was aborted."""
        (written,) = output.outputs
        if written.token_ids:
            self._count_input(output)
            self.assembler.count_tokens(len(written.token_ids))

    def take(self, output: RequestOutput) -> Iterator[GeneratedStep]:
        """Yield the steps that the newest tokens finish."""
        self._count_input(output)
        (written,) = output.outputs
        has_ended = written.finish_reason == "stop" and written.stop_reason != SEPARATOR
        tokens = list(zip(written.token_ids, self._logprobs(written), strict=True))
        for token, logprobs in tokens[:-1] if has_ended else tokens:
            self.ids.append(token)
            step = self.assembler.feed(self._decode(token), logprobs=logprobs)
            if step is not None:
                yield self._settle(step)
                if self.is_cut:
                    return
        if has_ended:
            yield self._settle(self.assembler.end(logprobs=tokens[-1][1]))
        elif written.finish_reason in ("length", "stop"):
            if self.room <= 0:  # None for the rest of the step, or for a second attempt.
                yield self._settle(replace(self.assembler.end(tokens=0), finish=Finish.LENGTH))
        elif written.finish_reason is not None:
            raise EngineStopped if written.finish_reason == "abort" else EngineFailed

    def _logprobs(self, written: CompletionOutput) -> Sequence[tuple[float] | None]:
        """Return the log-probability of each token, if the call asks for them."""
        if not self.assembler.request.reports_confidence:
            return [None] * len(written.token_ids)
        pairs = zip(written.token_ids, written.logprobs or (), strict=True)
        return [(found[token].logprob,) for token, found in pairs]

    def _count_input(self, output: RequestOutput) -> None:
        if not self.has_input:
            self.has_input = True
            self.assembler.count_input(len(self.ids), output.num_cached_tokens or 0)

    def _decode(self, token: int) -> str:
        try:
            return self.decoder.step(self.model.tokenizer, token) or ""
        except Exception:  # noqa: BLE001 - the library's own, for tokens that change the text before them
            self.decoder = DecodeStream(skip_special_tokens=True)
            return self.decoder.step(self.model.tokenizer, token) or ""

    def _settle(self, step: GeneratedStep) -> GeneratedStep:
        self.settled += self.model.encode(self.model.plain(step.text) + SEPARATOR)
        self.is_cut = self.is_over or self.ids != self.settled
        return step


class VllmGenerator(OnModel):
    """Writes steps: all steps of a call are one request to the engine, cut into steps as it streams."""

    def __init__(self, model: Model, *, style: Literal["completions", "chat"], template: str) -> None:
        """Take a model.

        Args:
            model: The model; the generator closes it.
            style: Whether the steps follow the template, or a message in the model's chat template.
            template: Template of the prompt in the style `completions`, with `{question}` in it.

        Raises:
            ModelUnusable: The style is `chat`, and the model has no usable chat template.
        """
        super().__init__(model)
        self._style = style
        self._template = template
        try:
            self._encode_question("1")
        except ModelUnusable:
            model.close()
            raise

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
    ) -> Generator[GeneratedStep, None, None]:
        """Yield steps as they finish; see `Generator.stream`.

        The meter has what the engine has delivered. Of a request that is aborted, it lacks the tokens of the run under
        way, and the input if that run computes it.

        Raises:
            EngineFailed: The engine could not carry out the request.
        """
        ids = self._encode_question(request.question)
        for text in request.prefix:
            ids += self._model.encode(self._model.plain(text) + SEPARATOR)
        self._model.refuse_past(self._model.max_tokens - 1, ids)
        writing = _Writing(model=self._model, assembler=StepAssembler(request, meter), settled=ids)
        steps = self._model.iterate(self._write(writing), cancellation, timeout_s=request.step_timeout_s)
        yield from writing.assembler.deliver(steps)

    def _encode_question(self, question: str) -> list[int]:
        question = self._model.plain(question)
        match self._style:
            case "completions":
                return self._model.encode(fill(self._template, question), is_beginning=True)
            case "chat":
                return self._model.encode_chat(solving(question))
            case _:
                assert_never(self._style)

    async def _write(self, writing: _Writing) -> AsyncGenerator[GeneratedStep, None]:
        while not writing.is_over:
            prompt = writing.begin_request()
            sampling = self._sampling(writing)
            if writing.is_single:
                output = await self._model.complete(prompt, sampling, aborted=writing.count_aborted)
                for step in writing.take(output):
                    yield step
                continue
            async with aclosing(self._model.generate(prompt, sampling)) as outputs:
                async for output in outputs:
                    for step in writing.take(output):
                        yield step
                    if writing.is_cut:
                        break

    def _sampling(self, writing: _Writing) -> SamplingParams:
        sampling = writing.assembler.request.sampling
        if writing.is_single:
            # A single step is returned in one piece, which saves a switch between tasks per token. If the blank line
            # does not end the step, another request continues.
            delivery = {"stop": [SEPARATOR], "output_kind": RequestOutputKind.FINAL_ONLY}
        else:
            # We decode token by token, and not with the engine, so that steps end at the right token.
            delivery = {"detokenize": False, "output_kind": RequestOutputKind.DELTA}
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=request_seed(sampling.seed, len(writing.ids)) if sampling.temperature else None,
            max_tokens=writing.room,
            # 0 is the drawn token alone. For it, vLLM computes a log-softmax over the vocabulary for the whole batch.
            logprobs=0 if writing.assembler.request.reports_confidence else None,
            **delivery,
        )
