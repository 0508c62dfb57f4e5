"""Engines of a run that nobody supervises: they outlast a server's outages, and end the run rather than spoil it.

In the service, a problem fails after some attempts. In a measurement or a training, such a problem would count as
unsolved, and the result would be wrong without a sign of it.
"""

from __future__ import annotations

import threading
import time
from collections import abc
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Final

from shared.backoff import Backoff
from shared.cancellation import Cancellation
from shared.domain.status import CONTEXT_FULL
from shared.engines.port import (
    EngineDead,
    GeneratedStep,
    GenerationRequest,
    Generator,
    Meter,
    Scorer,
    Scores,
    ScoringRequest,
)
from shared.errors import PermanentError, TrimError, explain
from shared.log import get_logger

_log = get_logger(__name__)

OF_ONE_PROBLEM: Final = frozenset({CONTEXT_FULL, "no_room_for_step", "answer_withheld", "thinking_took_all"})
"""Permanent errors that another problem need not meet. The problem fails, as it would in the service."""

RETRIES: Final = Backoff(first_s=0.5, limit_s=30.0)

RESUME: Final = "Run the same command again to resume."


class Stopping(Cancellation):
    """Cancels all calls of a run: for a reason if an engine cannot go on, without one if the user ends the run."""

    def pause(self, seconds: float) -> None:
        """Wait, at most until it is cancelled."""
        self._event.wait(seconds)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long an engine may fail before the run ends, and what all engines of a run have in common."""

    limit_s: float = 300.0
    """Seconds without a single success after which a failing engine ends the run."""
    backoff: Backoff = RETRIES
    stopping: Stopping = field(default_factory=Stopping)
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], object] | None = None
    """Waits between attempts; by default as long as the run is not cancelled."""


class _Endurance:
    """How an engine fares; its calls share it across threads."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._changes = threading.Lock()
        self._failing_since: float | None = None

    def note_success(self) -> None:
        """Note that the engine works."""
        with self._changes:
            self._failing_since = None

    def endure(self, error: TrimError, attempt: int) -> None:
        """Wait before the next attempt of a call that failed.

        Raises:
            Cancelled: The run is ending.
            EngineDead: No attempt is left; all other calls of the run are cancelled.
            PermanentError: Another attempt is pointless, and only this problem is affected.
        """
        patience = self._patience
        patience.stopping.raise_if_cancelled()
        if isinstance(error, PermanentError) and error.code in OF_ONE_PROBLEM:
            raise error
        with self._changes:
            now = patience.clock()
            if self._failing_since is None:
                self._failing_since = now
                _log.warning("engine_failing", code=error.code, detail=explain(error), patience_s=patience.limit_s)
            since = self._failing_since
        if isinstance(error, PermanentError | EngineDead) or now - since >= patience.limit_s:
            reason = EngineDead(f"{error} {RESUME}")
            patience.stopping.cancel(reason)
            raise reason from error.__cause__
        pause = patience.pause or patience.stopping.pause
        pause(patience.backoff.delay_s(attempt))


class PatientGenerator:
    """Repeats a call that fails, from the step at which it failed."""

    def __init__(self, engine: Generator, patience: Patience) -> None:
        self._engine = engine
        self._stopping = patience.stopping
        self._endurance = _Endurance(patience)

    @property
    def model_id(self) -> str:
        """Name of the model."""
        return self._engine.model_id

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
    ) -> abc.Generator[GeneratedStep, None, None]:
        """Yield steps; see `Generator.stream`.

        Raises:
            Cancelled: The run is ending.
            EngineDead: The engine has failed for too long, or with an error that every call would meet.
        """
        attempt = 0
        while request.max_steps > 0 and (attempt == 0 or request.max_tokens > 0):
            cancellation.raise_if_cancelled()
            try:
                with closing(self._engine.stream(request, self._stopping, meter)) as steps:
                    for step in steps:
                        self._endurance.note_success()
                        yield step
                        request = _after(request, step)
                return
            except TrimError as error:
                self._endurance.endure(error, attempt)
            attempt, meter = attempt + 1, Meter()

    def check(self) -> None:
        """Check the engine."""
        self._engine.check()

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()


class PatientScorer:
    """Repeats a call that fails."""

    def __init__(self, engine: Scorer, patience: Patience) -> None:
        self._engine = engine
        self._stopping = patience.stopping
        self._endurance = _Endurance(patience)

    @property
    def model_id(self) -> str:
        """Name of the model."""
        return self._engine.model_id

    def score(self, request: ScoringRequest, cancellation: Cancellation, meter: Meter) -> Scores:
        """Score the newest steps; see `Scorer.score`, and `PatientGenerator.stream` for the errors."""
        attempt = 0
        while True:
            cancellation.raise_if_cancelled()
            try:
                scores = self._engine.score(request, self._stopping, meter)
            except TrimError as error:
                self._endurance.endure(error, attempt)
            else:
                self._endurance.note_success()
                return scores
            attempt, meter = attempt + 1, Meter()

    def check(self) -> None:
        """Check the engine."""
        self._engine.check()

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()


def _after(request: GenerationRequest, step: GeneratedStep) -> GenerationRequest:
    """Return the request for what follows a step."""
    return replace(
        request,
        prefix=(*request.prefix, step.text),
        max_steps=request.max_steps - 1,
        max_tokens=request.max_tokens - step.tokens - step.estimated_tokens,
    )
