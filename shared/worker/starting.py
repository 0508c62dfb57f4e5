"""Starts the engine of a worker: loads the model, and has it answer once before the worker takes commands."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar
from uuid import UUID

from shared.backoff import RECONNECT
from shared.cancellation import Cancellation
from shared.domain.options import Sampling
from shared.domain.roles import WorkerRole
from shared.engines.port import EngineDead, GenerationRequest, Generator, Meter, Scorer, ScoringRequest
from shared.errors import RetryableError, explain
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
) -> Iterator[Engine]:
    """Load an engine and have it answer, for the duration of the block; the condition `engine` is met from then on.

    Args:
        load: Loads the engine.
        answer: Has it answer once; repeated while that fails and a retry can help, as with a server that is away.
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
        _warm_up(lambda: answer(engine), health)
        took_s = time.monotonic() - began
        metrics.ENGINE_START_SECONDS.labels(role).set(took_s)
        health.meet("engine", f"The model {engine.model_id} answers.")
        _log.info("engine_started", model=engine.model_id, took_s=round(took_s, 2))
        yield engine


def write_once(engine: Generator) -> None:
    """Have a generator write the beginning of a step."""
    request = GenerationRequest(
        problem_id=_PROBLEM,
        question=_QUESTION,
        prefix=(),
        max_steps=1,
        max_step_tokens=16,
        max_tokens=16,
        step_timeout_s=WARM_UP_TIMEOUT_S,
        sampling=Sampling(),
    )
    for _ in engine.stream(request, Cancellation(), Meter()):
        pass


def score_once(engine: Scorer) -> None:
    """Have a process reward model score a step."""
    request = ScoringRequest(
        problem_id=_PROBLEM, question=_QUESTION, steps=("1+1 is 2.",), newest=1, timeout_s=WARM_UP_TIMEOUT_S
    )
    engine.score(request, Cancellation(), Meter())


def _warm_up(answer: Callable[[], None], health: Health) -> None:
    """Have an engine answer, with back-off while it cannot; a worker without it would fail every command."""
    attempt = 0
    while True:
        try:
            answer()
            return
        except EngineDead:
            raise
        except RetryableError as error:
            health.miss("engine", explain(error))
            delay_s = RECONNECT.delay_s(attempt)
            attempt += 1
            _log.warning("engine_awaited", code=error.code, detail=explain(error), retry_in_s=round(delay_s, 2))
            time.sleep(delay_s)
