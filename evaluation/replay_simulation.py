"""Solves recorded problems again in this process, for figures that their record does not allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.engines import LoadedEngines
from evaluation.in_process import TIMEOUT_S, OtherModels, Tell, check_models
from evaluation.replay import RecordedDecision, RecordedProblem
from shared.domain.options import Limits, Options, Sampling
from shared.domain.roles import WorkerRole
from shared.domain.status import Status
from shared.domain.verdict import Verdict
from shared.machine.state import State
from shared.policies.wrapping import Routing
from simulation.simulated_service import SimulatedService


def simulate(
    routing: Routing,
    problems: Sequence[Mapping[str, Any]],
    engines: LoadedEngines,
    *,
    recorded_by: Mapping[WorkerRole, str],
    tell: Tell = lambda _done, _count: None,
) -> list[RecordedProblem]:
    """Solve problems with a policy as they were submitted: question, seed, sampling, limits and lookahead.

    Args:
        routing: The policy.
        problems: The problems as the API returns them. Those whose texts were erased are left out.
        engines: The engines of the settings.
        recorded_by: Models that worked on the record.
        tell: Receives how many problems are done.

    Raises:
        OtherModels: The settings name other models than those of the record or of the policy.
        EngineDead: An engine cannot go on.
    """
    check_models(routing.policy, engines)
    for role, model in recorded_by.items():
        if model != (ours := getattr(engines.models, role)):
            raise OtherModels(f"The record is of the {role} model {model}; the settings name {ours}. Correct them.")
    service = SimulatedService(engines.workers, window=engines.concurrency)
    ids = [
        service.submit(
            each["question"], routing.policy, _options(each), reference=each["reference"], wrappers=routing.wrappers
        )
        for each in problems
        if each["erased_at"] is None
    ]
    service.run(threads=engines.concurrency, tell=lambda open_count: tell(len(ids) - open_count, len(ids)))
    return [recorded_state(service.state(problem_id)) for problem_id in ids]


def recorded_state(state: State) -> RecordedProblem:
    """Return a problem that was simulated as the service would have recorded it."""
    return RecordedProblem(
        problem_id=str(state.problem_id),
        question=state.question,
        plan=state.options.plan,
        explores=any(each.decision.propensity < 1 for each in state.decisions),
        has_ended=state.status in (Status.SUCCEEDED, Status.FAILED),
        is_solved=None if state.reference is None else state.verdict is Verdict.CORRECT,
        large_tokens=state.ledger.large_out,
        lost_large_tokens=state.ledger.large_wasted + state.ledger.large_estimated,
        decisions=[
            RecordedDecision(
                number=each.number,
                step=each.step,
                observation=each.observation,
                decision=each.decision,
                decided_by=each.decided_by,
                models={
                    **({WorkerRole.SMALL: each.draft.model} if each.draft else {}),
                    **({WorkerRole.PRM: each.scoring.model} if each.scoring else {}),
                },
            )
            for each in state.decisions
        ],
    )


def _options(problem: Mapping[str, Any]) -> Options:
    return Options(
        lookahead=None if problem["lookahead"] == "unlimited" else problem["lookahead"],
        limits=Limits(**problem["limits"]),
        sampling=Sampling(**problem["sampling"]),
        step_timeout_s=TIMEOUT_S,
        max_attempts=problem["max_attempts"],
    )
