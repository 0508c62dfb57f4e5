"""Writes steps with a model in vLLM."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, assert_never

from tokenizers.decoders import DecodeStream
from vllm import SamplingParams
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind

from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.domain.text import SEPARATOR, STOPS
from shared.domain.thoughts import OPENS
from shared.engines.port import (
    EngineFailed,
    EngineStopped,
    GeneratedStep,
    GenerationRequest,
    Meter,
    ModelUnusable,
    ThinkingTookAll,
)
from shared.engines.prompts import fill, request_seed, solving
from shared.engines.solution_ids import Prompt, SolutionEncoder, SolutionIds
from shared.engines.step_assembly import StepAssembler
from shared.engines.thinking import THINKING_ID, Hiding, Thinking, Thoughts, Transcript, template_arguments
from shared.engines.vllm.model import Model, OnModel


@dataclass(kw_only=True)
class _Writing:
    """A call of `stream`, token by token."""

    model: Model
    assembler: StepAssembler
    solution: SolutionIds
    hiding: Hiding | None
    """Leaves out what the model thinks, unless its thoughts are steps."""
    decoder: DecodeStream = field(default_factory=lambda: DecodeStream(skip_special_tokens=True))
    has_input: bool = False
    """Whether the input of the current request was counted."""

    @property
    def ids(self) -> list[int]:
        """Ids in the engine's context."""
        return self.solution.ids

    @property
    def is_over(self) -> bool:
        return self.assembler.is_done or len(self.ids) >= self.model.max_tokens

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
        self.has_input = False
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
        has_ended = written.finish_reason == "stop" and written.stop_reason not in STOPS
        tokens = list(zip(written.token_ids, self._logprobs(written), strict=True))
        for number, (token, logprobs) in enumerate(tokens[:-1] if has_ended else tokens, start=1):
            self.ids.append(token)
            step = self.assembler.feed(self._visible(self._decode(token)), logprobs=logprobs)
            if step is not None:
                self._refuse_thoughts(step)
                if step.finish is Finish.SEPARATOR:
                    held = self.hiding.held if self.hiding is not None else ""
                    self.solution.finish_step(step.text, rest=self.assembler.rest + held)
                if self.is_over:
                    self.assembler.count_cut_off(len(tokens) - number)
                yield step
                if self.is_over:
                    return
        if has_ended:
            self._feed_held()
            step = self.assembler.end(logprobs=tokens[-1][1])
            self._refuse_thoughts(step)
            yield step
        elif written.finish_reason in ("length", "stop"):
            if self.room <= 0:  # None for the rest of the step, or for a second attempt.
                self._feed_held()
                step = self.assembler.cut()
                self._refuse_thoughts(step)
                yield step
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

    def _visible(self, piece: str) -> str:
        if self.hiding is None:
            return piece
        visible = self.hiding.visible(piece)
        # Nothing of the step follows its last token.
        is_last = self.assembler.step_tokens + 1 >= self.assembler.request.max_step_tokens
        return visible + self.hiding.rest() if is_last else visible

    def _feed_held(self) -> None:
        """Feed what was held back of the text, because nothing follows it."""
        if self.hiding is not None:
            self.assembler.feed(self.hiding.rest(), 0)

    def _refuse_thoughts(self, step: GeneratedStep) -> None:
        """Raise `ThinkingTookAll` for a step that ends within thoughts that are no steps, and so has no text."""
        if self.hiding is not None and self.hiding.is_thinking and not step.text:
            raise ThinkingTookAll

    def _decode(self, token: int) -> str:
        if (tag := self.model.tags.get(token)) is not None:
            return tag
        try:
            return self.decoder.step(self.model.tokenizer, token) or ""
        except Exception:  # noqa: BLE001 - the library's own, for tokens that change the text before them
            self.decoder = DecodeStream(skip_special_tokens=True)
            return self.decoder.step(self.model.tokenizer, token) or ""


class VllmGenerator(OnModel):
    """Writes steps: all steps of a call are one request to the engine, cut into steps as it streams."""

    def __init__(
        self,
        model: Model,
        *,
        style: Literal["completions", "chat"],
        template: str,
        thinking: Thinking | None = None,
    ) -> None:
        """Take a model.

        Args:
            model: The model; the generator closes it.
            style: Whether the steps follow the template, or a message in the model's chat template.
            template: Template of the prompt in the style `completions`, with `{question}` in it.
            thinking: What becomes of what the model thinks; `None` drops it, and does not ask the model not to think.

        Raises:
            ModelUnusable: The style is `chat`, and the model has no usable chat template, or none that knows of the
                thinking that is chosen.
        """
        super().__init__(model)
        self._style = style
        self._template = template
        self._encoder = SolutionEncoder(model.encode, model.decode)
        self._thinking = thinking
        try:
            if thinking is not None:
                model.refuse_unthinking()
            self._solution("1", ())
        except ModelUnusable:
            model.close()
            raise

    @property
    def model_id(self) -> str:
        """Name of the model, and whether its thoughts are steps."""
        return super().model_id + (THINKING_ID if self._thinking == "steps" else "")

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
    ) -> Generator[GeneratedStep, None, None]:
        """Yield steps as they finish; see `Generator.stream`.

        The meter has what the engine has delivered. Of a request that is aborted, it lacks the tokens of the run under
        way, and the input if that run computes it.

        Raises:
            EngineFailed: The engine could not carry out the request.
            ThinkingTookAll: The model thinks, and has no tokens left to write a step.
        """
        solution, thoughts = self._solution(request.question, request.prefix)
        self._refuse_full(solution.ids)
        assembler = StepAssembler(request, meter, thoughts)
        hiding = None if self._thinking == "steps" else Hiding()
        writing = _Writing(model=self._model, assembler=assembler, solution=solution, hiding=hiding)
        steps = self._model.iterate(self._write(writing), cancellation, timeout_s=request.step_timeout_s)
        yield from writing.assembler.deliver(steps)

    def _refuse_full(self, ids: Sequence[int]) -> None:
        """Raise `InputTooLong` if the context has no room for a token after some ids."""
        self._model.refuse_past(self._model.max_tokens - 1, ids)

    def _solution(self, question: str, steps: Sequence[str]) -> tuple[SolutionIds, Thoughts]:
        """Encode a question and the steps after it; also returns what the model is about to write."""
        plain, transcript = self._model.plain(question), Transcript(self._thinking, self._model.plain)
        match self._style:
            case "completions":
                encode = partial(self._model.encode, is_beginning=True)
                prompt = self._encoder.prompt(fill(self._template, plain), encode=encode)
            case "chat":  # The template has the tokens of the beginning, and the end that the model was trained on.
                text = self._model.chat_prompt(solving(plain), template_arguments(self._thinking))
                transcript.is_opened = text.rstrip().endswith(OPENS)
                begin = transcript.begin(steps)
                if begin:  # Its newlines are followed by what the model writes.
                    prompt = self._encoder.prompt(text + begin)
                else:
                    prompt = Prompt(text, self._model.encode(text), self._model.encode)
            case _:
                assert_never(self._style)

        def write(step: str) -> str:
            return transcript.add(step).removesuffix(SEPARATOR)

        solution = SolutionIds(self._encoder, question, prompt, steps, plain=write)
        return solution, Thoughts.after(transcript)

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
                    if writing.is_over:
                        break
        if not writing.assembler.is_done:
            self._refuse_full(writing.ids)

    def _sampling(self, writing: _Writing) -> SamplingParams:
        sampling = writing.assembler.request.sampling
        if writing.is_single:
            # A single step is returned in one piece, which saves a switch between tasks per token. If the blank line
            # does not end the step, another request continues.
            stops = [] if writing.assembler.thoughts.is_answering else list(STOPS)
            delivery = {"stop": stops, "output_kind": RequestOutputKind.FINAL_ONLY}
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
