"""The port that every engine implements: write steps, score steps.

Calls are synchronous and come from many threads at once: an engine owns whatever loop or thread it needs, batches
the concurrent calls itself, and is shared by all task threads of a worker process.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self
from uuid import UUID

from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.domain.options import Sampling
from shared.domain.status import CONTEXT_FULL
from shared.errors import PermanentError, RetryableError


class InputTooLong(PermanentError):
    """The question and its steps do not fit the model's context; submit a shorter question or lower max_steps."""

    code = CONTEXT_FULL


class BadScores(PermanentError):
    """The process reward model answered with a wrong number of scores; check that the served model is a PRM."""

    code = "bad_scores"


class ModelUnusable(PermanentError):
    """The model's files are missing or damaged; check the model folder that the settings name."""

    code = "model_unusable"


class StepTimeout(RetryableError):
    """The model did not finish a step in time."""

    code = "step_timeout"

    @classmethod
    def after(cls, timeout_s: float) -> Self:
        """Make the error that says for how long an answer was awaited."""
        return cls(
            f"The model did not answer within {timeout_s:g} s; check it, or submit with a longer step_timeout_s."
        )


class EngineStopped(RetryableError):
    """The engine was stopped while it worked on this call."""

    code = "engine_stopped"


class RequestRefused(PermanentError):
    """The engine refuses the request; check that it supports the way in which it is asked."""

    code = "request_refused"


class EngineFailed(RetryableError):
    """The engine could not carry out this call; its log says why."""

    code = "engine_failed"


class EngineDead(RetryableError):
    """The engine broke down and answers no more; its process ends, so that a new one takes its place."""

    code = "engine_dead"


@dataclass(slots=True)
class Meter:
    """What a call has used past the last step that it yielded. Pass a new one to each call.

    The engine keeps it current and takes off what each yielded step carries; a completed call leaves it at zero. After
    a call that failed, was cancelled, timed out or was closed, it holds the rest of what the engine decoded: the step
    that was being written, and steps that were finished ahead of the caller.
    """

    tokens: int = 0
    """Tokens decoded (generators) or computed (PRM)."""
    prompt_tokens: int = 0
    """Tokens of the input of requests, once the engine reports that it computed them."""
    cached_tokens: int = 0
    """Those of `prompt_tokens` that were not computed again."""
    is_estimated: bool = False
    """Whether `tokens` includes a count of what a server had streamed, rather than the engine's exact count."""

    def clear(self) -> None:
        """Set all counts to zero."""
        self.tokens = self.prompt_tokens = self.cached_tokens = 0
        self.is_estimated = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """Asks for the steps that follow a prefix."""

    problem_id: UUID
    """Names the sequence, so that an engine can find what it has cached for it. Never changes the result."""
    question: str
    prefix: tuple[str, ...]
    """Texts of the steps so far, without separators."""
    max_steps: int
    """How many steps to write at most, at least 1."""
    max_step_tokens: int
    """A step that reaches this many tokens is closed there (`Finish.LENGTH`)."""
    max_tokens: int
    """No further step is begun once the call has written this many tokens."""
    step_timeout_s: float
    """Seconds that a single step may take before the call raises `StepTimeout`."""
    sampling: Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedStep:
    """One finished step, as an engine wrote it."""

    text: str
    """Stripped; empty or without any letter or digit if the model had nothing to say, asked twice as far as its tokens
    reached (degenerate)."""
    finish: Finish
    tokens: int
    """Tokens decoded for it, those of a dropped degenerate attempt and of the separator included."""
    prompt_tokens: int
    """Tokens of the input of all requests that were made for it; 0 where the model just went on writing."""
    cached_tokens: int
    """Those of `prompt_tokens` that were not computed again."""


class Generator(Protocol):
    """Writes steps."""

    @property
    def model_id(self) -> str:
        """Name of the model, as the decision record shows it."""

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
    ) -> abc.Generator[GeneratedStep, None, None]:
        """Yield steps as they finish.

        Ends after `max_steps` steps, after `max_tokens` tokens, after a step that finishes the solution (the model
        ended by itself, or the step holds a balanced boxed answer), or after a step that stays degenerate.
        Closing the iterator frees what the call holds in the engine.

        Raises:
            Cancelled: Cancellation was asked for.
            InputTooLong: Question and prefix do not fit the model's context.
            StepTimeout: A step took longer than `step_timeout_s`.
            EngineStopped: The engine was closed meanwhile.
            EngineDead: The engine broke down.
        """

    def check(self) -> None:
        """Find out, between calls, whether the engine still lives.

        Raises:
            EngineDead: It has broken down.
        """

    def close(self) -> None:
        """Free all that the engine holds; calls that still run raise `EngineStopped`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRequest:
    """Asks for the scores of the newest steps of a solution."""

    problem_id: UUID
    """As in `GenerationRequest`."""
    question: str
    steps: tuple[str, ...]
    """Texts of all steps, the newest last."""
    newest: int
    """How many of the last steps to score, at least 1."""
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a PRM said of the newest steps."""

    values: Sequence[float]
    """One number a step asked for, oldest first, as the model gave it: the caller checks count and range."""
    tokens: int
    """Tokens that were computed for it (cached ones left out)."""


class Scorer(Protocol):
    """Scores steps."""

    @property
    def model_id(self) -> str:
        """Name of the model, as the decision record shows it."""

    def score(self, request: ScoringRequest, cancellation: Cancellation, meter: Meter) -> Scores:
        """Score the newest steps of a solution.

        Raises:
            Cancelled: Cancellation was asked for.
            InputTooLong: Question and steps do not fit the model's context; nothing is ever cut in silence.
            StepTimeout: The call took longer than `timeout_s`.
            EngineStopped: The engine was closed meanwhile.
        """

    def check(self) -> None:
        """Find out, between calls, whether the engine still lives.

        Raises:
            EngineDead: It has broken down.
        """

    def close(self) -> None:
        """Free all that the engine holds; calls that still run raise `EngineStopped`."""
