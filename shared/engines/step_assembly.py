"""Cuts a model's stream of text into steps and meters its tokens, the same way for every engine that streams."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from statistics import fmean

from shared.domain.drafts import Finish
from shared.domain.endings import REACH, find_ending, follows_answer
from shared.domain.text import is_degenerate
from shared.engines.port import EngineFailed, GeneratedStep, GenerationRequest, Meter
from shared.engines.thinking import Thoughts


@dataclass(slots=True)
class StepAssembler:
    """Assembles the steps of one generation call, and keeps the call's meter.

    Feed it each piece of text as it is decoded; it returns a step when one is finished. A degenerate step is dropped
    once if it has tokens left: the model continues after the blank text, and the next step carries the tokens of both.
    A second degenerate step in a row is returned, and ends the call. So is the first one after a step with an answer
    box: the model has nothing to add to it.

    One thread feeds the assembler. Another one, the caller's, may take the steps from `deliver`; the meter then
    includes what was decoded ahead of the caller. Once the caller has left, nothing more is counted.
    """

    request: GenerationRequest
    meter: Meter
    thoughts: Thoughts = field(default_factory=Thoughts)
    """Finds the ends of steps, and marks thoughts."""
    is_done: bool = False
    """Whether the call is over, so that nothing more may be fed."""
    step_tokens: int = 0
    """Tokens of the step that is being written, counted or estimated; limits apply to them."""
    _estimated: int = 0
    """Those of `step_tokens` that are an estimate."""
    _undelivered: int = 0
    """Estimated tokens that are settled, and that the caller has not been handed yet."""
    _prompt_tokens: int = 0
    _cached_tokens: int = 0
    _text: str = ""
    _before: list[str] = field(init=False)
    """Texts of the last steps, those of the prefix included."""
    _logprobs: list[float] | None = field(default_factory=list)
    """Log-probabilities of the tokens since the last finished or dropped step; `None` if those of some are unknown."""
    _call_tokens: int = 0
    _steps: int = 0
    _was_degenerate: bool = False
    _has_caller_left: bool = False
    _metering: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._before = list(self.request.prefix[-REACH:])

    @property
    def rest(self) -> str:
        """The text after the last finished step."""
        return self._text

    def split(self, text: str) -> tuple[str, str] | None:
        """Split text at the end of the step that it finishes, if it follows what was fed of the step."""
        return self.thoughts.split(self._text + text)

    def count_input(self, prompt_tokens: int, cached_tokens: int) -> None:
        """Count the input of a request that was made for the current step."""
        with self._metering:
            if not self._has_caller_left:
                self._prompt_tokens += prompt_tokens
                self._cached_tokens += cached_tokens
                self.meter.prompt_tokens += prompt_tokens
                self.meter.cached_tokens += cached_tokens

    def count_streamed(self, tokens: int) -> None:
        """Note how many tokens the current request has streamed so far; the next count replaces them."""
        with self._metering:
            if not self._has_caller_left:
                self.meter.estimated_tokens = self._undelivered + tokens

    def count_tokens(self, tokens: int, estimated: int = 0) -> bool:
        """Count decoded tokens of the current step; returns whether the caller is still there.

        Args:
            tokens: Number of tokens, as the engine counted them.
            estimated: Number of further tokens that it did not count.
        """
        with self._metering:
            if self._has_caller_left:
                return False
            self.meter.tokens += tokens
            self._undelivered += estimated
            self.meter.estimated_tokens = self._undelivered
        self.step_tokens += tokens + estimated
        self._estimated += estimated
        self._call_tokens += tokens + estimated
        return True

    def count_cut_off(self, tokens: int, estimated: int = 0) -> None:
        """Count tokens that were decoded past the end of a step, and whose text is cut off: they stay on the meter.

        Args:
            tokens: Number of tokens, as the engine counted them.
            estimated: Number of further tokens that it did not count.
        """
        with self._metering:
            if not self._has_caller_left:
                self.meter.tokens += tokens
                self._undelivered += estimated
                self.meter.estimated_tokens = self._undelivered

    def feed(
        self, piece: str, tokens: int = 1, *, estimated: int = 0, logprobs: Sequence[float] | None = None
    ) -> GeneratedStep | None:
        """Take the next piece of decoded text; return the step that it finishes, if any.

        Args:
            piece: The text.
            tokens: Number of tokens that were decoded for it, as the engine counted them.
            estimated: Number of further tokens that it did not count.
            logprobs: Their log-probabilities, if they are known.
        """
        if not self.count_tokens(tokens, estimated):
            return None
        self._take_logprobs(tokens + estimated, logprobs)
        self._text += piece
        if ">" in piece and (after := self.thoughts.skip_end(self._text)) is not None:
            self._text = after
        may_end = "\n" in piece or (">" in piece and self.thoughts.is_thinking)
        if may_end and (parts := self.thoughts.split(self._text)) is not None:
            text, rest = parts
            if not (is_degenerate(text) and self._has_second_attempt()):
                return self._close(text, Finish.SEPARATOR, rest=rest)
            self._was_degenerate, self._text, self._logprobs = True, rest, []
        elif self.step_tokens >= self.request.max_step_tokens:
            return self.cut()
        return None

    def end(self, tokens: int = 1, *, estimated: int = 0, logprobs: Sequence[float] | None = None) -> GeneratedStep:
        """Take the model's own end of the solution; return the step that it finishes, which may be empty."""
        self.count_tokens(tokens, estimated)
        self._take_logprobs(tokens + estimated, logprobs)
        return self._close(self._text.strip(), Finish.ENDED)

    def cut(self) -> GeneratedStep:
        """Take the end of the context or of the step's tokens; return the step that it cuts, which may be empty."""
        return self._close(self._text.strip(), Finish.LENGTH)

    def deliver(self, steps: Generator[GeneratedStep, None, None]) -> Generator[GeneratedStep, None, None]:
        """Yield steps to the caller, and take off the meter what each step carries.

        Raises:
            EngineFailed: The steps ended although the call is not over; without a reason, nobody would write the rest.
        """
        try:
            with closing(steps):
                for step in steps:
                    with self._metering:
                        self.meter.tokens -= step.tokens
                        self._undelivered -= step.estimated_tokens
                        self.meter.estimated_tokens -= step.estimated_tokens
                        self.meter.prompt_tokens -= step.prompt_tokens
                        self.meter.cached_tokens -= step.cached_tokens
                    yield step
            if not self.is_done:
                raise EngineFailed("The engine ended a call before its last step; check the worker's log.")
        finally:
            with self._metering:
                self._has_caller_left = True

    def _take_logprobs(self, tokens: int, logprobs: Sequence[float] | None) -> None:
        if logprobs is not None and self._logprobs is not None:
            self._logprobs += logprobs
        elif tokens:
            self._logprobs = None

    def _close(self, text: str, finish: Finish, *, rest: str = "") -> GeneratedStep:
        text = self.thoughts.mark(text)
        step = GeneratedStep(
            text=text,
            finish=finish,
            tokens=self.step_tokens - self._estimated,
            estimated_tokens=self._estimated,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            mean_logprob=fmean(self._logprobs) if self._logprobs else None,
            min_logprob=min(self._logprobs) if self._logprobs else None,
        )
        self._steps += 1
        ending = find_ending(text, finish=finish, before=self._before, question=self.request.question)
        self.is_done = (
            ending is not None or self._steps >= self.request.max_steps or self._call_tokens >= self.request.max_tokens
        )
        self._before = [*self._before[-REACH:], text]
        self._prompt_tokens = self._cached_tokens = self.step_tokens = self._estimated = 0
        self._text, self._was_degenerate, self._logprobs = rest, False, []
        return step

    def _has_second_attempt(self) -> bool:
        """Tell whether the model is asked once more after a degenerate step."""
        is_spent = self.step_tokens >= self.request.max_step_tokens
        return not (self._was_degenerate or is_spent or follows_answer(self._before, self.request.question))
