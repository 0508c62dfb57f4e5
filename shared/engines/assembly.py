"""Turns a model's stream of text into finished steps, the same way for every engine that streams text."""

from __future__ import annotations

from dataclasses import dataclass

from shared.domain.drafts import Finish
from shared.domain.text import boxed_answer, is_degenerate, split_step
from shared.engines.port import GeneratedStep, GenerationRequest


@dataclass(slots=True)
class StepAssembler:
    """Collects the text of one generation call and cuts it into steps.

    Feed it each piece of text as it is decoded; it returns a step when one is finished. A degenerate step is dropped
    once if there are tokens left, and they are billed to the step that follows (the model goes on with the blank text
    in its context, which is how it is asked again); the second one in a row is returned and ends the call.
    """

    request: GenerationRequest
    prompt_tokens: int
    cached_tokens: int
    is_done: bool = False
    """Whether the call is over: nothing may be fed any more."""
    step_tokens: int = 0
    """Tokens of the step that is being written."""
    _text: str = ""
    _call_tokens: int = 0
    _steps: int = 0
    _was_degenerate: bool = False

    def begin_again(self) -> None:
        """Forget the text past the last finished step: the model goes on from there, and writes it once more."""
        self._text = ""

    def feed(self, piece: str, tokens: int = 1) -> GeneratedStep | None:
        """Take the next piece of decoded text; return the step that it finishes, if any."""
        self._text += piece
        self.step_tokens += tokens
        self._call_tokens += tokens
        if "\n" in piece and (parts := split_step(self._text)) is not None:
            return self._close(parts[0], Finish.SEPARATOR, rest=parts[1])
        if self.step_tokens >= self.request.max_step_tokens:
            return self._close(self._text.strip(), Finish.LENGTH)
        return None

    def end(self, tokens: int = 1) -> GeneratedStep:
        """Take the model's own end of the solution; return the step that it finishes, which may be empty."""
        self.step_tokens += tokens
        step = self._close(self._text.strip(), Finish.ENDED)
        assert step is not None, "a step that the model ended itself is never asked for again"
        return step

    def _close(self, text: str, finish: Finish, *, rest: str = "") -> GeneratedStep | None:
        degenerate = is_degenerate(text)
        is_spent = self.step_tokens >= self.request.max_step_tokens
        if degenerate and finish is Finish.SEPARATOR and not self._was_degenerate and not is_spent:
            self._was_degenerate, self._text = True, rest
            return None
        step = GeneratedStep(
            text=text,
            finish=finish,
            tokens=self.step_tokens,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
        )
        self._steps += 1
        self.is_done = (
            degenerate
            or finish is Finish.ENDED
            or self._steps >= self.request.max_steps
            or self._call_tokens >= self.request.max_tokens
            or boxed_answer(text) is not None
        )
        self.prompt_tokens = self.cached_tokens = self.step_tokens = 0
        self._text, self._was_degenerate = rest, False
        return step
