"""Solves problems in this process with the engines of the settings: the simulated service, no queue or database."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Final
from uuid import UUID

from evaluation.engines import LoadedEngines
from evaluation.problem_sources import Problem
from shared.cancellation import Cancellation
from shared.domain.options import Options, Sampling, Wrappers
from shared.engines.port import Meter, ScoringRequest
from shared.errors import PermanentError
from shared.log import get_logger
from shared.machine.state import State
from shared.policies.policy import Policy
from shared.policies.wrapping import UNWRAPPED
from simulation.simulated_service import SimulatedService

TIMEOUT_S: Final = 600.0
"""Timeout of one step in seconds."""

_log = get_logger(__name__)

Tell = Callable[[int, int], object]
"""Receives how many problems of how many are done."""


class OtherModels(PermanentError):
    """The policy was fitted on other models than those of the settings; name a version for these models."""

    code = "other_models"


def options_with(sampling: Sampling) -> Options:
    """Return the service's default options with a sampling, and a timeout for busy machines."""
    return Options(sampling=sampling, step_timeout_s=TIMEOUT_S)


def solve(
    problems: Sequence[Problem],
    policy: Policy,
    engines: LoadedEngines,
    *,
    sampling: Sampling,
    wrappers: Wrappers = UNWRAPPED,
    tell: Tell = lambda _done, _count: None,
) -> list[State]:
    """Solve problems with a policy; return them in their order as the service would store them.

    Raises:
        OtherModels: The policy was fitted on other models than those of the engines.
        EngineDead: An engine cannot go on.
    """
    check_models(policy, engines)
    service = SimulatedService(engines.workers, window=engines.concurrency)
    options = options_with(sampling)
    ids = [
        service.submit(question, policy, options, reference=reference, wrappers=wrappers)
        for question, reference in problems
    ]
    service.run(threads=engines.concurrency, tell=lambda open_count: tell(len(ids) - open_count, len(ids)))
    states = [service.state(problem_id) for problem_id in ids]
    failures = [state.failure.code for state in states if state.failure is not None]
    if failures:
        _log.warning("problems_failed", policy=policy.name, count=len(failures), first=failures[0])
    return states


def check_models(policy: Policy, engines: LoadedEngines) -> None:
    """Check that a policy was fitted on the models of the engines, if it was fitted on any.

    Raises:
        OtherModels: It was fitted on others.
    """
    if policy.models is not None and (other := policy.models.find_other(asdict(engines.models).items())):
        raise OtherModels(
            f"The policy {policy.name!r} {other}; name a version that was fitted on the models of the settings."
        )


def score(
    question: str, steps: Sequence[str], engines: LoadedEngines, *, newest: int, problem_id: UUID
) -> list[float | None]:
    """Score the newest steps of a solution; `None` where the PRM gives no usable number.

    Args:
        question: The question.
        steps: All steps.
        engines: The engines; only the PRM computes.
        newest: Number of steps to score, counted from the end.
        problem_id: Key of the PRM's cache.

    Raises:
        EngineDead: The PRM cannot go on.
    """
    request = ScoringRequest(
        problem_id=problem_id, question=question, steps=tuple(steps), newest=newest, timeout_s=TIMEOUT_S
    )
    try:
        values = engines.prm.score(request, Cancellation(), Meter()).values
    except PermanentError:  # The solution does not fit the PRM's context.
        values = []
    if len(values) != newest:
        return [None] * newest
    return [value if math.isfinite(value) and 0 <= value <= 1 else None for value in values]
