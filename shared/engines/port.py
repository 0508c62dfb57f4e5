"""The port that every engine implements: write steps, score steps.

Calls are synchronous. All threads of a worker process share one engine and call it concurrently; the engine batches
these calls, and owns the event loop or thread that it needs for that.
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
from shared.errors import Fault, PermanentError, RetryableError


class InputTooLong(PermanentError):
    """The question and its steps do not fit the model's context; submit a shorter question or lower max_steps."""

    code = CONTEXT_FULL


class EngineUnfit(RetryableError):
    """The engine cannot work at present; check the model's server and the worker's log.

    It says something about the worker or its server rather than about the call: the worker finds out by a probe whether
    other calls would fail as well (`shared/worker/fitness.py`).
    """

    may_be_the_calls = True
    """Whether a call that fails so, although probes succeed, may be the cause: a server answers 500 to some inputs."""

    @property
    def fault(self) -> Fault:
        """The worker's."""
        return Fault.WORKER


class BadScores(EngineUnfit):
    """The process reward model answered with a wrong number of scores; check that the served model is a PRM."""

    code = "bad_scores"


class ModelUnusable(PermanentError):
    """The model's files are missing or damaged; check the model folder that the settings name."""

    code = "model_unusable"


class StepTimeout(RetryableError):
    """The model did not finish a step in time; check the model, or submit with a longer step_timeout_s."""

    code = "step_timeout"

    @classmethod
    def after(cls, timeout_s: float) -> Self:
        """Return the error for an expired time-out."""
        return cls(
            f"The model did not answer within {timeout_s:g} s; check the model, or submit with a longer step_timeout_s."
        )


class EngineStopped(RetryableError):
    """The engine was closed during this call; retry the call on another worker."""

    code = "engine_stopped"


class RequestRefused(PermanentError):
    """The engine refused the request; check that it supports TRIM_PROMPT_STYLE or TRIM_PRM_FORMAT."""

    code = "request_refused"


class ThinkingTookAll(PermanentError):
    """The model thought until its tokens were used up, and wrote no step; submit with more max_step_tokens."""

    code = "thinking_took_all"

    def __init__(self, setting: str = "TRIM_SMALL_THINKING or TRIM_LARGE_THINKING") -> None:
        super().__init__(
            f"The model thought until its tokens were used up, or stopped, and wrote no step; set {setting} to off or"
            " steps, or submit with more max_step_tokens."
        )


class EngineFailed(RetryableError):
    """The engine could not carry out this call; check the worker's log."""

    code = "engine_failed"


class EngineDead(RetryableError):
    """The engine broke down, and its process ends; start the worker again unless it is supervised."""

    code = "engine_dead"


@dataclass(slots=True)
class Meter:
    """What a call has used past the last step that it yielded. Pass a new one to each call.

    The engine keeps it current and takes off what each yielded step carries. After a completed call, it holds what the
    model wrote past the ends of steps and what was cut off; normally that is nothing. After a call that failed, was
    cancelled, timed out or was closed, it holds the rest of what the engine decoded: also the step that was being
    written, and steps that were finished ahead of the caller.
    """

    tokens: int = 0
    """Tokens decoded (generators) or computed (PRM), as the engine counted them."""
    estimated_tokens: int = 0
    """Further tokens that a server has not counted, or not yet."""
    prompt_tokens: int = 0
    """Input tokens of requests, from when the engine reports that it computed them."""
    cached_tokens: int = 0
    """Those of `prompt_tokens` that were not computed again."""

    def clear(self) -> None:
        """Set all counts to zero."""
        self.tokens = self.estimated_tokens = self.prompt_tokens = self.cached_tokens = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """A request for the steps that follow a prefix."""

    problem_id: UUID
    """Key under which an engine may cache what it computes; it never changes the result."""
    question: str
    prefix: tuple[str, ...]
    """Texts of the steps so far, without separators."""
    max_steps: int
    """Maximum number of steps to write, at least 1."""
    max_step_tokens: int
    """Number of tokens at which a step is cut (`Finish.LENGTH`)."""
    max_tokens: int
    """Number of tokens of the call after which no further step begins."""
    step_timeout_s: float
    """Seconds that a single step may take before the call raises `StepTimeout`."""
    sampling: Sampling
    reports_confidence: bool = False
    """Whether the steps carry log-probabilities. Engines compute them, and servers send them, only on request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedStep:
    """One finished step, as an engine wrote it.

    The log-probabilities are natural logarithms, at most 0, in the model's own distribution: before temperature, top-p
    and top-k, so that they are comparable between samplings. They are those of the tokens drawn for the step's text and
    its end (the separator, or the model's own end), without a dropped degenerate attempt. Both numbers are `None` if
    the request does not ask for them, or if the engine does not know them.
    """

    text: str
    """Stripped text. It has no letter or digit (it is degenerate) if the model wrote none at a second attempt, had no
    tokens left for one, or followed an answer box."""
    finish: Finish
    tokens: int
    """Tokens decoded for the step, including a dropped degenerate attempt and the separator, as the engine counted
    them."""
    estimated_tokens: int = 0
    """Further tokens decoded for it, of requests for which a server reported no count."""
    prompt_tokens: int
    """Input tokens of all requests made for the step, as far as they were counted; 0 if the model continued within an
    earlier request."""
    cached_tokens: int
    """Those of `prompt_tokens` that were not computed again."""
    mean_logprob: float | None = None
    """Mean log-probability of the step's tokens."""
    min_logprob: float | None = None
    """Log-probability of the least likely one."""


class Generator(Protocol):
    """Writes steps."""

    @property
    def model_id(self) -> str:
        """Name of the model in the decision record."""

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
    ) -> abc.Generator[GeneratedStep, None, None]:
        """Yield steps as they finish.

        Ends after `max_steps` steps, after `max_tokens` tokens, or after a step that ends the solution (see
        `shared/domain/endings.py`). Before that, it only ends with an error. Closing the iterator frees what the call
        holds in the engine.

        Raises:
            Cancelled: The cancellation was set.
            InputTooLong: Question, prefix and the steps that were yielded leave no room in the model's context.
            StepTimeout: A step took longer than `step_timeout_s`.
            EngineStopped: The engine was closed meanwhile.
            EngineDead: The engine broke down.
        """

    def check(self) -> None:
        """Check, between calls, that the engine still works.

        Raises:
            EngineDead: The engine broke down.
        """

    def close(self) -> None:
        """Free the engine's resources; running calls raise `EngineStopped`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRequest:
    """A request for the scores of the newest steps of a solution."""

    problem_id: UUID
    """Key of the cache, as in `GenerationRequest`."""
    question: str
    steps: tuple[str, ...]
    """Texts of all steps, the newest last."""
    newest: int
    """Number of steps to score, counted from the end; at least 1."""
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """A PRM's scores of the newest steps."""

    values: Sequence[float]
    """One number per requested step, oldest first, as the model gave it; the caller checks count and range."""
    tokens: int
    """Tokens that were computed, without cached ones, as the engine counted them."""
    estimated_tokens: int = 0
    """Further tokens, of requests for which a server reported no count."""


def check_count(scores: Scores, request: ScoringRequest) -> None:
    """Check that a PRM gave one number for each step.

    Raises:
        BadScores: It gave more or fewer.
    """
    if len(scores.values) != request.newest:
        given = len(scores.values)
        raise BadScores(f"The PRM gave {given} scores for {request.newest} steps; check that a PRM is served.")


class Scorer(Protocol):
    """Scores steps."""

    @property
    def model_id(self) -> str:
        """Name of the model in the decision record."""

    def score(self, request: ScoringRequest, cancellation: Cancellation, meter: Meter) -> Scores:
        """Score the newest steps of a solution.

        Raises:
            Cancelled: The cancellation was set.
            InputTooLong: Question and steps do not fit the model's context; engines never truncate them.
            StepTimeout: The call took longer than `timeout_s`.
            EngineStopped: The engine was closed meanwhile.
            EngineDead: The engine broke down.
        """

    def check(self) -> None:
        """Check, between calls, that the engine still works.

        Raises:
            EngineDead: The engine broke down.
        """

    def close(self) -> None:
        """Free the engine's resources; running calls raise `EngineStopped`."""
