"""The scripted engine: given steps, scores and delays. For tests, and for measuring what the service itself costs.

A script is JSON: `{"problems": {question: [step, ...]}, "default": [step, ...]}`, where a step is
`{"small": text, "large": text, "score": number, "small_ms": ..., "large_ms": ..., "prm_ms": ...}`. `large` defaults to
`small`, `score` to 1, delays to 0. A score may be any JSON number, NaN included, so that bad answers can be played.
"""

from __future__ import annotations

import json
import threading
from collections import abc
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.domain.roles import Author
from shared.domain.text import boxed_answer, is_degenerate
from shared.engines.port import (
    EngineStopped,
    GeneratedStep,
    GenerationRequest,
    Meter,
    ModelUnusable,
    Scores,
    ScoringRequest,
    StepTimeout,
)


class ScriptedStep(BaseModel):
    """One step of a script."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    small: str
    large: str | None = None
    score: float = 1.0
    large_score: float = 1.0
    small_ms: float = 0.0
    large_ms: float = 0.0
    prm_ms: float = 0.0

    def text(self, role: Author) -> str:
        """What the model of a role writes here."""
        return self.large if role is Author.LARGE and self.large is not None else self.small


class Script(BaseModel):
    """What the models say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    problems: dict[str, tuple[ScriptedStep, ...]] = Field(default_factory=dict)
    default: tuple[ScriptedStep, ...] = ()
    missing_scores: int = 0
    """How many scores the PRM leaves out of each answer, to play a wrong model."""

    @classmethod
    def load(cls, path: str | None) -> Script:
        """Read a script.

        Raises:
            ModelUnusable: There is no such file, or it is no script.
        """
        if path is None:
            raise ModelUnusable("The scripted engine needs a script; set TRIM_SCRIPT to its path.")
        try:
            return cls.model_validate(json.loads(Path(path).read_text()))
        except (OSError, ValueError, ValidationError) as error:
            raise ModelUnusable(f"The script {path} cannot be used ({type(error).__name__}).") from error

    def steps(self, question: str) -> Sequence[ScriptedStep]:
        """Find the steps of a question."""
        return self.problems.get(question, self.default)


class _Pace:
    """Lets calls wait as long as their steps take, and ends the wait when nobody wants them any more."""

    def __init__(self) -> None:
        self._changes = threading.Lock()
        self._is_stopped = False
        self._waiting: set[threading.Event] = set()

    def wait(self, delay_ms: float, cancellation: Cancellation, *, timeout_s: float) -> None:
        """Wait.

        Raises:
            Cancelled: Cancellation was asked for.
            EngineStopped: The engine was closed.
            StepTimeout: The time-out is shorter than the delay, and has passed.
        """
        over = threading.Event()
        with self._changes:
            self._waiting.add(over)
        try:
            cancellation.when_cancelled(over.set)
            if not self._is_stopped:
                over.wait(min(delay_ms / 1000, timeout_s))
        finally:
            with self._changes:
                self._waiting.discard(over)
        cancellation.raise_if_cancelled()
        if self._is_stopped:
            raise EngineStopped
        if delay_ms / 1000 > timeout_s:
            raise StepTimeout.after(timeout_s)

    def stop(self) -> None:
        """End all waits."""
        with self._changes:
            self._is_stopped = True
            for over in self._waiting:
                over.set()


class ScriptedGenerator:
    """Writes the steps of a script. Tokens are counted as words."""

    def __init__(self, script: Script, role: Author) -> None:
        self._script = script
        self._role = role
        self._pace = _Pace()

    @property
    def model_id(self) -> str:
        """Name of the model."""
        return f"scripted/{self._role}"

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
    ) -> abc.Generator[GeneratedStep, None, None]:
        """Yield the scripted steps after the prefix; past the script's end the model ends by itself."""
        steps = self._script.steps(request.question)
        prompt_tokens, call_tokens = len(request.question.split()) + len(request.prefix), 0
        for index in range(len(request.prefix), len(request.prefix) + request.max_steps):
            scripted = steps[index] if index < len(steps) else ScriptedStep(small="")
            delay_ms = scripted.large_ms if self._role is Author.LARGE else scripted.small_ms
            self._pace.wait(delay_ms, cancellation, timeout_s=request.step_timeout_s)
            text = scripted.text(self._role)
            words = text.split()
            finish = Finish.ENDED if index + 1 >= len(steps) else Finish.SEPARATOR
            if len(words) > request.max_step_tokens:
                text, finish = " ".join(words[: request.max_step_tokens]), Finish.LENGTH
            tokens = min(len(words), request.max_step_tokens) + 1
            yield GeneratedStep(text=text, finish=finish, tokens=tokens, prompt_tokens=prompt_tokens, cached_tokens=0)
            call_tokens, prompt_tokens = call_tokens + tokens, 0
            ended = finish is Finish.ENDED or boxed_answer(text) is not None or is_degenerate(text)
            if ended or call_tokens >= request.max_tokens:
                return

    def check(self) -> None:
        """Do nothing: a script does not break down."""

    def close(self) -> None:
        """End the calls that wait."""
        self._pace.stop()


class ScriptedScorer:
    """Gives the scores of a script; a step that is not the small model's gets `large_score`."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._pace = _Pace()

    @property
    def model_id(self) -> str:
        """Name of the model."""
        return "scripted/prm"

    def score(self, request: ScoringRequest, cancellation: Cancellation, meter: Meter) -> Scores:
        """Look the scores up."""
        cancellation.raise_if_cancelled()
        steps = self._script.steps(request.question)
        first = max(0, len(request.steps) - request.newest)
        values: list[float] = []
        for index in range(first, len(request.steps)):
            scripted = steps[index] if index < len(steps) else ScriptedStep(small="")
            self._pace.wait(scripted.prm_ms, cancellation, timeout_s=request.timeout_s)
            values.append(scripted.score if request.steps[index] == scripted.small else scripted.large_score)
        tokens = sum(len(step.split()) + 1 for step in request.steps[first:])
        return Scores(values=values[: len(values) - self._script.missing_scores], tokens=tokens)

    def check(self) -> None:
        """Do nothing: a script does not break down."""

    def close(self) -> None:
        """End the calls that wait."""
        self._pace.stop()
