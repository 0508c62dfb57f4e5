"""The scripted engine plays given steps, scores and delays, for tests and for measuring the cost of the service itself.

A script is JSON: `{"problems": {question: [step, ...]}, "default": [step, ...]}`, where a step is
`{"small": text, "large": text, "score": number, "small_ms": ..., "large_ms": ..., "prm_ms": ...}`. `large` defaults to
`small`, `score` to 1 and delays to 0. A score may be any JSON number, and NaN, to play bad answers. A step may also
have `mean_logprob` and `min_logprob`, which both authors report.
"""

from __future__ import annotations

import json
import threading
import time
from collections import abc
from pathlib import Path
from typing import Annotated, assert_never

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.cancellation import Cancellation, Cancelled
from shared.domain.drafts import Finish
from shared.domain.endings import find_ending
from shared.domain.roles import Author
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
    mean_logprob: Annotated[float, Field(le=0)] | None = None
    min_logprob: Annotated[float, Field(le=0)] | None = None

    def text(self, author: Author) -> str:
        """Return the text that an author writes."""
        match author:
            case Author.SMALL:
                return self.small
            case Author.LARGE:
                return self.small if self.large is None else self.large
            case _:
                assert_never(author)

    def delay_ms(self, author: Author) -> float:
        """Return the time in milliseconds that an author takes."""
        match author:
            case Author.SMALL:
                return self.small_ms
            case Author.LARGE:
                return self.large_ms
            case _:
                assert_never(author)


class Script(BaseModel):
    """The steps and scores that the models give."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    problems: dict[str, tuple[ScriptedStep, ...]] = Field(default_factory=dict)
    default: tuple[ScriptedStep, ...] = ()
    missing_scores: int = 0
    """Number of scores that the PRM leaves out of each answer, to play a wrong model."""

    @classmethod
    def load(cls, path: str | None) -> Script:
        """Read a script.

        Raises:
            ModelUnusable: The file is missing, or is not a script.
        """
        if path is None:
            raise ModelUnusable("The scripted engine needs a script; set TRIM_SCRIPT to its path.")
        try:
            return cls.model_validate(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, ValidationError) as error:
            raise ModelUnusable(
                f"The script {path} cannot be used ({type(error).__name__}); correct it, or change TRIM_SCRIPT."
            ) from error

    def step(self, question: str, index: int) -> ScriptedStep:
        """Return a step of a question's solution; past its end, an empty one."""
        steps = self.problems.get(question, self.default)
        return steps[index] if index < len(steps) else ScriptedStep(small="")

    def length(self, question: str) -> int:
        """Return the number of steps of a question's solution."""
        return len(self.problems.get(question, self.default))


class _Delays:
    """Lets calls wait while they pretend to compute, until they are cancelled or the engine is closed."""

    def __init__(self) -> None:
        self._changes = threading.Lock()
        self._is_stopped = False
        self._waiting: set[threading.Event] = set()

    def wait(
        self,
        delay_ms: float,
        timeout_s: float,
        cancellation: Cancellation,
        meter: Meter,
        *,
        tokens: int,
        prompt_tokens: int = 0,
    ) -> None:
        """Wait while tokens are computed, one after the other; an interrupted wait meters those computed so far.

        Raises:
            Cancelled: The cancellation was set.
            EngineStopped: The engine was closed.
            StepTimeout: The time-out has passed.
        """
        self._raise_if_ended(cancellation)
        if not delay_ms:
            return
        started = time.monotonic()
        self._sleep(min(delay_ms / 1000, timeout_s), cancellation)
        try:
            self._raise_if_ended(cancellation)
            if delay_ms / 1000 > timeout_s:
                raise StepTimeout.after(timeout_s)
        except (Cancelled, EngineStopped, StepTimeout):
            elapsed_ms = (time.monotonic() - started) * 1000
            meter.tokens += int(tokens * min(1.0, elapsed_ms / delay_ms))
            meter.prompt_tokens += prompt_tokens
            raise

    def stop(self) -> None:
        """End all waits."""
        with self._changes:
            self._is_stopped = True
            for over in self._waiting:
                over.set()

    def _sleep(self, seconds: float, cancellation: Cancellation) -> None:
        over = threading.Event()
        with self._changes:
            self._waiting.add(over)
        try:
            cancellation.when_cancelled(over.set)
            if not self._is_stopped:
                over.wait(seconds)
        finally:
            with self._changes:
                self._waiting.discard(over)

    def _raise_if_ended(self, cancellation: Cancellation) -> None:
        cancellation.raise_if_cancelled()
        if self._is_stopped:
            raise EngineStopped


class ScriptedGenerator:
    """Writes the steps of a script. Each word is a token, and so is the end of a step."""

    def __init__(self, script: Script, author: Author) -> None:
        self._script = script
        self._author = author
        self._delays = _Delays()

    @property
    def model_id(self) -> str:
        """Name of the model."""
        return f"scripted/{self._author}"

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
    ) -> abc.Generator[GeneratedStep, None, None]:
        """Yield the scripted steps after the prefix; past the script's end the model ends by itself."""
        length, first = self._script.length(request.question), len(request.prefix)
        before = list(request.prefix)
        prompt_tokens, call_tokens = len(request.question.split()) + first, 0
        for index in range(first, first + request.max_steps):
            scripted = self._script.step(request.question, index)
            text = scripted.text(self._author)
            words = text.split()
            finish = Finish.ENDED if index + 1 >= length else Finish.SEPARATOR
            if len(words) >= request.max_step_tokens:
                text, finish = " ".join(words[: request.max_step_tokens]), Finish.LENGTH
            tokens = min(len(words) + 1, request.max_step_tokens)
            self._delays.wait(
                scripted.delay_ms(self._author),
                request.step_timeout_s,
                cancellation,
                meter,
                tokens=tokens,
                prompt_tokens=prompt_tokens,
            )
            yield GeneratedStep(
                text=text,
                finish=finish,
                tokens=tokens,
                prompt_tokens=prompt_tokens,
                cached_tokens=0,
                mean_logprob=scripted.mean_logprob if request.reports_confidence else None,
                min_logprob=scripted.min_logprob if request.reports_confidence else None,
            )
            call_tokens, prompt_tokens = call_tokens + tokens, 0
            ending = find_ending(text, finish=finish, before=before, question=request.question)
            before.append(text)
            if ending is not None or call_tokens >= request.max_tokens:
                return

    def check(self) -> None:
        """Do nothing: a script does not break down."""

    def close(self) -> None:
        """End the calls that wait."""
        self._delays.stop()


class ScriptedScorer:
    """Gives the scores of a script; a step that is not the small model's gets `large_score`."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._delays = _Delays()

    @property
    def model_id(self) -> str:
        """Name of the model."""
        return "scripted/prm"

    def score(self, request: ScoringRequest, cancellation: Cancellation, meter: Meter) -> Scores:
        """Look the scores up. Each word of a step is a token, and so is its tag."""
        cancellation.raise_if_cancelled()
        first = max(0, len(request.steps) - request.newest)
        values: list[float] = []
        for index, step in enumerate(request.steps[first:], start=first):
            scripted = self._script.step(request.question, index)
            tokens = len(step.split()) + 1
            self._delays.wait(scripted.prm_ms, request.timeout_s, cancellation, meter, tokens=tokens)
            meter.tokens += tokens
            values.append(scripted.score if step == scripted.small else scripted.large_score)
        scores = Scores(values=values[: len(values) - self._script.missing_scores], tokens=meter.tokens)
        meter.clear()
        return scores

    def check(self) -> None:
        """Do nothing: a script does not break down."""

    def close(self) -> None:
        """End the calls that wait."""
        self._delays.stop()
