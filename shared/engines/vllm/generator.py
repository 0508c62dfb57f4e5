"""Writes steps with a model in vLLM."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Literal

from tokenizers.decoders import DecodeStream
from vllm import SamplingParams
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind

from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.domain.text import SEPARATOR
from shared.engines.assembly import StepAssembler
from shared.engines.port import EngineFailed, EngineStopped, GeneratedStep, GenerationRequest, Meter, ModelUnusable
from shared.engines.prompts import fill, request_seed, solving
from shared.engines.vllm.model import Model, OnModel


@dataclass(kw_only=True)
class _Writing:
    """A call of `stream`, token by token."""

    model: Model
    assembler: StepAssembler
    settled: list[int]
    """The ids of the question and all finished steps, as a later call will encode them: each step by itself, so that
    they only ever grow, and what the engine has computed of them serves every later call."""
    ids: list[int] = field(default_factory=list)
    """What the engine has in its context."""
    decoder: DecodeStream = field(default_factory=lambda: DecodeStream(skip_special_tokens=True))
    is_cut: bool = False
    """Whether nothing more is taken from the engine's request: all is written, or it went on from something else than
    a later call would. So it does where a step was cut off, began with blank text, or was spelled with other tokens
    than the tokenizer's."""
    has_input: bool = False
    """Whether the input of the call was counted."""

    def __post_init__(self) -> None:
        self.ids = list(self.settled)

    @property
    def is_over(self) -> bool:
        return self.assembler.is_done or len(self.settled) >= self.model.max_tokens

    @property
    def is_single(self) -> bool:
        """Whether one step is asked for, which a request may end."""
        return self.assembler.request.max_steps == 1

    @property
    def room(self) -> int:
        """How many tokens a request may write: what is left of the context and, of a single step, of its own limit."""
        left = self.model.max_tokens - len(self.ids)
        if self.is_single:
            left = min(left, self.assembler.request.max_step_tokens - self.assembler.step_tokens)
        return left

    def begin_request(self) -> list[int]:
        """Return what the next request goes on from."""
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
        tokens = list(written.token_ids)
        for token in tokens[:-1] if has_ended else tokens:
            self.ids.append(token)
            step = self.assembler.feed(self._decode(token))
            if step is not None:
                yield self._settle(step)
                if self.is_cut:
                    return
        if has_ended:
            yield self._settle(self.assembler.end())
        elif written.finish_reason in ("length", "stop"):
            if self.room <= 0:  # to go on in, or to ask again in where nothing was said
                yield self._settle(replace(self.assembler.end(tokens=0), finish=Finish.LENGTH))
        elif written.finish_reason is not None:
            raise EngineStopped if written.finish_reason == "abort" else EngineFailed

    def _count_input(self, output: RequestOutput) -> None:
        if not self.has_input:
            self.has_input = True
            self.assembler.count_input(len(self.ids), output.num_cached_tokens or 0)

    def _decode(self, token: int) -> str:
        try:
            return self.decoder.step(self.model.tokenizer, token) or ""
        except Exception:  # noqa: BLE001 - the library's own, where tokens together are no prolongation of the text so far
            self.decoder = DecodeStream(skip_special_tokens=True)
            return self.decoder.step(self.model.tokenizer, token) or ""

    def _settle(self, step: GeneratedStep) -> GeneratedStep:
        self.settled += self.model.encode(self.model.plain(step.text) + SEPARATOR)
        self.is_cut = self.is_over or self.ids != self.settled
        return step


class VllmGenerator(OnModel):
    """Writes steps: one request to the engine for all steps of a call, cut into steps as it streams."""

    def __init__(self, model: Model, *, style: Literal["completions", "chat"], template: str) -> None:
        """Take a model.

        Args:
            model: Closed with the generator.
            style: Whether the steps follow the template, or a message in the model's own chat template.
            template: Of the prompt in the style `completions`, with `{question}` in it.

        Raises:
            ModelUnusable: The style is `chat` and the model has no chat template that can be used.
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
        if self._style == "chat":
            return self._model.encode_chat(solving(question))
        return self._model.encode(fill(self._template, question), is_beginning=True)

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
            # A single step is handed over whole, which spares a switch between tasks for every token. Where a blank
            # line ends no step, another request goes on.
            delivery = {"stop": [SEPARATOR], "output_kind": RequestOutputKind.FINAL_ONLY}
        else:
            # Nobody reads the engine's text: it is decoded here, token by token, so that steps are cut to the token.
            delivery = {"detokenize": False, "output_kind": RequestOutputKind.DELTA}
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=request_seed(sampling.seed, len(writing.ids)) if sampling.temperature else None,
            max_tokens=writing.room,
            **delivery,
        )
