"""Routings of every policy, fitted to the models of a test, and recorded problems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.replay import RecordedDecision, RecordedProblem
from shared.domain.artefacts import ModelIds
from shared.domain.options import Wrappers
from shared.domain.roles import WorkerRole
from shared.domain.verdict import Verdict
from shared.machine.state import State
from shared.policies.artefact import Artefact
from shared.policies.policy import FittedPolicy
from shared.policies.registry import POLICIES, build_policy
from shared.policies.wrapping import Routing
from tests.unit.policies import learned
from tests.unit.policies.pomdp_models import artefact_of, released_model

SETTINGS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "threshold": ({"threshold": 0.5}, {"threshold": 0}, {"threshold": 1}),
    "aggregate": ({}, {"escalate_share": 0.3}),
    "sequence": ({}, {"escalate_share": 0.3}),
    "pomdp": ({}, {"belief": "memoryless"}, {"large_token_price": 1e-4, "draft_token_price": 4e-4}),
    "confidence": ({"threshold": 0.5}, {"of": "least", "threshold": 0.3}),
    "cascade": ({"threshold": 0.4}, {"threshold": 1}),
    "small-only": ({},),
    "large-only": ({},),
    "random": ({"p": 0.4},),
}
"""Parameters of every policy of the registry."""

assert set(SETTINGS) == set(POLICIES)


def artefact(name: str, *, small: str, large: str, prm: str) -> Artefact:
    """Make an artefact of a fitted policy for some models."""
    if name == "pomdp":
        return artefact_of(released_model(), small=small, large=large, prm=prm)
    made = learned.artefact(name)
    card = made.card.model_dump(exclude={"arrays_sha256", "format", "models"})
    return Artefact.make(made.arrays, models=ModelIds(small=small, large=large, prm=prm), **card)


def routing(name: str, parameters: Mapping[str, Any], wrappers: Wrappers | None = None, **models: str) -> Routing:
    policy = build_policy(name, parameters)
    number = None
    if isinstance(policy, FittedPolicy):
        policy, number = policy.fitted(artefact(name, **models)), 1
    return Routing(policy, wrappers or Wrappers(), number)


def recorded(state: State) -> RecordedProblem:
    """Turn a problem that was simulated into a recorded one."""
    return RecordedProblem(
        problem_id=str(state.problem_id),
        question=state.question,
        plan=state.options.plan,
        explores=any(each.decision.propensity < 1 for each in state.decisions),
        has_ended=state.status in ("succeeded", "failed"),
        is_solved=state.verdict is Verdict.CORRECT,
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
                    **({WorkerRole(each.draft.author): each.draft.model} if each.draft else {}),
                    **({WorkerRole.PRM: each.scoring.model} if each.scoring else {}),
                },
            )
            for each in state.decisions
        ],
    )
