"""Routings of every policy, fitted to the models of a test, and problems that they solved in a simulation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.engines import LoadedEngines
from evaluation.replay import RecordedProblem
from evaluation.replay_simulation import recorded_state
from shared.domain.artefacts import ModelIds
from shared.domain.options import Limits, Options, Wrappers
from shared.domain.roles import Author
from shared.machine.state import State
from shared.policies.artefact import Artefact
from shared.policies.policy import FittedPolicy
from shared.policies.registry import POLICIES, build_policy, build_routing
from shared.policies.wrapping import Routing
from simulation.simulated_service import SimulatedService
from simulation.world import World, WorldGenerator, WorldScorer
from tests.unit.policies import learned
from tests.unit.policies.pomdp_models import artefact_of, released_model

MODELS = {"small": "small-model", "large": "large-model", "prm": "prm-model"}
PROBLEMS = 5
LIMITS = Limits(max_steps=6, max_step_tokens=50, max_tokens=1000)

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


def threshold(value: float, **wrappers: Any) -> Routing:
    return build_routing("threshold", {"threshold": value}, Wrappers(**wrappers))


def loaded() -> LoadedEngines:
    world = World(seed=3)
    small, large = (WorldGenerator(world, author) for author in Author)
    models = ModelIds(**MODELS)
    return LoadedEngines(small=small, large=large, prm=WorldScorer(world), models=models, concurrency=1)


def solve(policy: Routing, *, lookahead: int = 0) -> list[State]:
    service = SimulatedService(loaded().workers)
    options = Options(limits=LIMITS, lookahead=lookahead)
    ids = [
        service.submit(f"What is {index}?", policy.policy, options, wrappers=policy.wrappers)
        for index in range(PROBLEMS)
    ]
    while service.turn():
        pass
    return [service.state(each) for each in ids]


def simulate(policy: Routing, *, lookahead: int = 0) -> list[RecordedProblem]:
    return [recorded_state(each) for each in solve(policy, lookahead=lookahead)]
