"""Starts the engine of a worker: loads the model, and has it answer once before the worker takes commands."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import TypeVar
from uuid import UUID

from shared.cancellation import Cancellation
from shared.domain.options import Sampling
from shared.domain.roles import WorkerRole
from shared.engines.port import (
    EngineDead,
    GenerationRequest,
    Generator,
    Meter,
    Scorer,
    ScoringRequest,
    ThinkingTookAll,
    check_count,
)
from shared.errors import RetryableError, TrimError, explain
from shared.log import get_logger
from shared.observe import metrics
from shared.observe.health import Health

Engine = TypeVar("Engine", Generator, Scorer)

WARM_UP_TIMEOUT_S = 120.0
"""Seconds that the first answer may take: a server may compile or load its model for it."""

_PROBLEM = UUID(int=0)
_QUESTION = "What is 1+1?"

_log = get_logger(__name__)


@contextmanager
def started(
    load: Callable[[], Engine], answer: Callable[[Engine], None], *, role: WorkerRole, health: Health
) -> Iterator[tuple[Engine, TrimError | None]]:
    """Load an engine and have it answer once, for the duration of the block.

    Yields the engine, and why it did not answer if a retry can help, as with a server that is away: the worker then
    begins unfit, and probes.

    Args:
        load: Loads the engine.
        answer: Has it answer once.
        role: Role of the worker.
        health: Gets what is under way.

    Raises:
        PermanentError: The engine cannot be loaded, or refuses the first call.
        EngineDead: The engine broke down over the first call.
    """
    began = time.monotonic()
    health.miss("engine", "The model is being loaded.")
    with closing(load()) as engine:
        health.miss("engine", "The model has not answered its first call yet.")
        failed: TrimError | None = None
        try:
            answer(engine)
        except EngineDead:
            raise
        except RetryableError as error:
            failed = error
            _log.warning("engine_awaited", code=error.code, detail=explain(error))
        else:
            took_s = time.monotonic() - began
            metrics.ENGINE_START_SECONDS.labels(role).set(took_s)
            _log.info("engine_started", model=engine.model_id, took_s=round(took_s, 2))
        yield engine, failed


def write_once(
    engine: Generator,
    cancellation: Cancellation | None = None,
    *,
    role: WorkerRole,
    timeout_s: float = WARM_UP_TIMEOUT_S,
) -> None:
    """Have a generator write the beginning of a step, and count its tokens; see `Generator.stream` for the errors."""
    meter, tokens = Meter(), 0
    request = GenerationRequest(
        problem_id=_PROBLEM,
        question=_QUESTION,
        prefix=(),
        max_steps=1,
        max_step_tokens=16,
        max_tokens=16,
        step_timeout_s=timeout_s,
        sampling=Sampling(),
    )
    try:
        with suppress(ThinkingTookAll):  # The model works: it answers, and thinks for longer than this.
            for step in engine.stream(request, cancellation or Cancellation(), meter):
                tokens += step.tokens + step.estimated_tokens
    finally:
        metrics.PROBE_TOKENS.labels(role).inc(tokens + _metered(meter))


def score_once(
    engine: Scorer,
    cancellation: Cancellation | None = None,
    *,
    timeout_s: float = WARM_UP_TIMEOUT_S,
) -> None:
    """Have a process reward model score a step, and count its tokens; see `Scorer.score` for the errors.

    Raises:
        BadScores: It gave more or fewer numbers than one.
    """
    request = ScoringRequest(
        problem_id=_PROBLEM, question=_QUESTION, steps=("1+1 is 2.",), newest=1, timeout_s=timeout_s
    )
    meter, tokens = Meter(), 0
    try:
        scores = engine.score(request, cancellation or Cancellation(), meter)
        tokens = scores.tokens + scores.estimated_tokens
        check_count(scores, request)
    finally:
        metrics.PROBE_TOKENS.labels(WorkerRole.PRM).inc(tokens + _metered(meter))


def _metered(meter: Meter) -> int:
    """Return the tokens of a call that it did not yield."""
    return max(0, meter.tokens) + max(0, meter.estimated_tokens)
