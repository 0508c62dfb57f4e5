"""Cuts a model's stream of text into steps and meters its tokens, the same way for every engine that streams."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from statistics import fmean

from shared.domain.drafts import Finish
from shared.domain.text import boxed_answer, is_degenerate, split_step
from shared.engines.port import GeneratedStep, GenerationRequest, Meter


@dataclass(slots=True)
class StepAssembler:
    """Assembles the steps of one generation call, and keeps the call's meter.

    Feed it each piece of text as it is decoded; it returns a step when one is finished. A degenerate step is dropped
    once if it has tokens left: the model continues after the blank text, and the next step carries the tokens of both.
    A second degenerate step in a row is returned, and ends the call.

    One thread feeds the assembler. Another one, the caller's, may take the steps from `deliver`; the meter then
    includes what was decoded ahead of the caller. Once the caller has left, nothing more is counted.
    """

    request: GenerationRequest
    meter: Meter
    is_done: bool = False
    """Whether the call is over, so that nothing more may be fed."""
    step_tokens: int = 0
    """Tokens of the step that is being written."""
    _prompt_tokens: int = 0
    _cached_tokens: int = 0
    _text: str = ""
    _logprobs: list[float] | None = field(default_factory=list)
    """Log-probabilities of the tokens since the last finished or dropped step; `None` if those of some are unknown."""
    _call_tokens: int = 0
    _steps: int = 0
    _was_degenerate: bool = False
    _has_caller_left: bool = False
    _metering: threading.Lock = field(default_factory=threading.Lock)

    def restart_step(self) -> None:
        """Forget the text after the last finished step, because the model will write it again."""
        self._text = ""

    def count_input(self, prompt_tokens: int, cached_tokens: int) -> None:
        """Count the input of a request that was made for the current step."""
        with self._metering:
            if not self._has_caller_left:
                self._prompt_tokens += prompt_tokens
                self._cached_tokens += cached_tokens
                self.meter.prompt_tokens += prompt_tokens
                self.meter.cached_tokens += cached_tokens

    def count_streamed(self, tokens: int) -> None:
        """Note how many tokens the current request has streamed so far; the next exact count replaces them."""
        with self._metering:
            if not self._has_caller_left:
                self.meter.estimated_tokens = tokens

    def count_tokens(self, tokens: int) -> bool:
        """Count decoded tokens of the current step; returns whether the caller is still there."""
        with self._metering:
            if self._has_caller_left:
                return False
            self.meter.tokens += tokens
            self.meter.estimated_tokens = 0
        self.step_tokens += tokens
        self._call_tokens += tokens
        return True

    def feed(self, piece: str, tokens: int = 1, *, logprobs: Sequence[float] | None = None) -> GeneratedStep | None:
        """Take the next piece of decoded text; return the step that it finishes, if any.

        Args:
            piece: The text.
            tokens: Number of tokens that were decoded for it.
            logprobs: Their log-probabilities, if they are known.
        """
        if not self.count_tokens(tokens):
            return None
        self._take_logprobs(tokens, logprobs)
        self._text += piece
        if "\n" in piece and (parts := split_step(self._text)) is not None:
            return self._close(parts[0], Finish.SEPARATOR, rest=parts[1])
        if self.step_tokens >= self.request.max_step_tokens:
            return self._close(self._text.strip(), Finish.LENGTH)
        return None

    def end(self, tokens: int = 1, *, logprobs: Sequence[float] | None = None) -> GeneratedStep:
        """Take the model's own end of the solution; return the step that it finishes, which may be empty."""
        self.count_tokens(tokens)
        self._take_logprobs(tokens, logprobs)
        step = self._close(self._text.strip(), Finish.ENDED)
        assert step is not None, "only a step that ends in a separator is dropped"
        return step

    def deliver(self, steps: Generator[GeneratedStep, None, None]) -> Generator[GeneratedStep, None, None]:
        """Yield steps to the caller, and take off the meter what each step carries."""
        try:
            with closing(steps):
                for step in steps:
                    with self._metering:
                        self.meter.tokens -= step.tokens
                        self.meter.prompt_tokens -= step.prompt_tokens
                        self.meter.cached_tokens -= step.cached_tokens
                    yield step
        finally:
            with self._metering:
                self._has_caller_left = True

    def _take_logprobs(self, tokens: int, logprobs: Sequence[float] | None) -> None:
        if logprobs is not None and self._logprobs is not None:
            self._logprobs += logprobs
        elif tokens:
            self._logprobs = None

    def _close(self, text: str, finish: Finish, *, rest: str = "") -> GeneratedStep | None:
        degenerate = is_degenerate(text)
        is_spent = self.step_tokens >= self.request.max_step_tokens
        if degenerate and finish is Finish.SEPARATOR and not self._was_degenerate and not is_spent:
            self._was_degenerate, self._text, self._logprobs = True, rest, []
            return None
        step = GeneratedStep(
            text=text,
            finish=finish,
            tokens=self.step_tokens,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            mean_logprob=fmean(self._logprobs) if self._logprobs else None,
            min_logprob=min(self._logprobs) if self._logprobs else None,
        )
        self._steps += 1
        self.is_done = (
            degenerate
            or finish is Finish.ENDED
            or self._steps >= self.request.max_steps
            or self._call_tokens >= self.request.max_tokens
            or boxed_answer(text) is not None
        )
        self._prompt_tokens = self._cached_tokens = self.step_tokens = 0
        self._text, self._was_degenerate, self._logprobs = rest, False, []
        return step
