"""Shadows in the real orchestrator: recorded beside each decision, bounded in time, and without any effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import pytest

from services.orchestrator import policy_cache, shadowing
from services.orchestrator.policy_cache import PolicyCache
from services.orchestrator.shadowing import decide_as_shadows
from shared.domain.decisions import Action, DecidedBy, Decision, Observation
from shared.domain.options import Options, PolicyChoice, Wrappers
from shared.domain.roles import Author
from shared.domain.shadows import Shadow, ShadowRecord, Skip, Skipped
from shared.machine.state import State
from shared.policies import registry
from shared.policies.baselines import LargeOnly, Random, SmallOnly
from shared.policies.cascade import Cascade
from shared.policies.policy import Policy
from shared.policies.pomdp.policy import Pomdp
from shared.policies.threshold import Threshold
from shared.store.port import LockedProblem
from simulation.simulated_service import SimulatedService
from simulation.store import StoredProblem
from simulation.workers import Engines
from simulation.world import World, WorldGenerator, WorldScorer
from tests.unit.simulation.test_fitted_policies import artefact

WORLD = World(seed=5)
OTHERS = (Threshold(threshold=0.875), Random(p=0.5), LargeOnly(), SmallOnly())


class Crashing(Policy):
    """Raises an error wherever it is asked."""

    name: ClassVar[str] = "crashing"

    def decide(self, observation: Observation) -> Decision:
        raise ZeroDivisionError


@pytest.fixture(autouse=True)
def _crashing_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "POLICIES", {**registry.POLICIES, Crashing.name: Crashing})


def simulate() -> SimulatedService:
    engines = Engines(
        small=WorldGenerator(WORLD, Author.SMALL), large=WorldGenerator(WORLD, Author.LARGE), prm=WorldScorer(WORLD)
    )
    return SimulatedService(engines)


def solve(
    policy: Policy, shadows: Sequence[Policy] = (), wrappers: Wrappers | None = None, *, count: int = 1
) -> tuple[SimulatedService, list[State]]:
    service = simulate()
    ids = [
        service.submit(f"What is {number}?", policy, Options(), wrappers=wrappers or Wrappers(), shadows=shadows)
        for number in range(count)
    ]
    while service.turn():
        pass
    return service, [service.state(each) for each in ids]


def records(service: SimulatedService, state: State) -> list[ShadowRecord]:
    return service.store.shadow_decisions(state.problem_id)


def skips(found: Sequence[ShadowRecord]) -> set[Skip]:
    return {each.outcome.reason for each in found if isinstance(each.outcome, Skipped)}


@pytest.mark.parametrize(
    ("policy", "shadows"),
    [
        (Threshold(), OTHERS),
        (Threshold(), (Crashing(), Random())),
        (Pomdp(draft_token_price=4e-4).fitted(artefact()), OTHERS),
        (Cascade(), (Cascade(threshold=0.2), Threshold())),
        (LargeOnly(), (LargeOnly(),)),
    ],
)
@pytest.mark.parametrize("wrappers", [Wrappers(), Wrappers(budget=20)])
def test_shadows_change_nothing_and_decide_beside_each_decision_of_the_policy(
    policy: Policy, shadows: tuple[Policy, ...], wrappers: Wrappers
) -> None:
    _, alone = solve(policy, wrappers=wrappers, count=3)
    service, shadowed = solve(policy, shadows, wrappers, count=3)
    assert shadowed == alone
    for state in shadowed:
        decided = {each.number: each for each in state.decisions if each.decided_by is DecidedBy.POLICY}
        found = records(service, state)
        assert [(each.number, each.shadow) for each in found] == [
            (number, place) for number in decided for place in range(len(shadows))
        ]
        for each in found:
            decision = decided[each.number]
            assert each.decided_at == decision.decided_at
            if isinstance(each.outcome, Decision):
                assert each.outcome == shadows[each.shadow].decide(decision.observation)
                assert each.policy == shadows[each.shadow].version
                assert each.agrees == (each.outcome.action is decision.decision.action)
            else:
                assert each.agrees is None


def test_a_shadow_equal_to_the_policy_always_agrees() -> None:
    service, states = solve(Threshold(), [Threshold()], count=3)
    assert {each.agrees for state in states for each in records(service, state)} == {True}


def test_a_shadow_that_crashes_is_recorded_and_leaves_the_others_alone() -> None:
    service, [state] = solve(Threshold(), [Crashing(), LargeOnly()])
    found = records(service, state)
    assert skips(found) == {Skip.CRASHED}
    assert {each.outcome.detail for each in found if isinstance(each.outcome, Skipped)} == {
        "It raised an error (ZeroDivisionError)."
    }
    assert {each.outcome.action for each in found if isinstance(each.outcome, Decision)} == {Action.ESCALATE}


def test_a_fitted_shadow_is_loaded_between_transactions_and_decides() -> None:
    shadow = Pomdp(large_token_price=1e-4).fitted(artefact())
    service, [state] = solve(Threshold(), [shadow])
    found = records(service, state)
    assert found
    assert skips(found) == set()
    assert {each.policy.version for each in found} == {1}


def test_a_shadow_of_other_models_is_skipped() -> None:
    shadow = Pomdp().fitted(artefact(prm="another"))
    service, [state] = solve(Threshold(), [shadow])
    assert skips(records(service, state)) == {Skip.MODELS_DIFFER}


UNUSABLE = {
    "a defect": (Shadow(policy=PolicyChoice(name="", revision=0, parameters={}), defect="ValueError"), "upgrade"),
    "unknown": (Shadow(policy=PolicyChoice(name="newer", revision=1, parameters={})), "no policy 'newer'"),
    "wrong parameters": (Shadow(policy=PolicyChoice(name="random", revision=2, parameters={"p": 7})), "'p'"),
    "no parameters": (Shadow(policy=PolicyChoice(name="random", revision=2, parameters=None)), "TypeError"),  # type: ignore[arg-type]
    "missing": (Shadow(policy=PolicyChoice(name="pomdp", revision=1, parameters={}, version=9)), "no version 9"),
    "unfit": (Shadow(policy=PolicyChoice(name="confidence", revision=1, parameters={})), "log-probabilities"),
}


@pytest.mark.parametrize(("shadow", "said"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_shadow_that_cannot_be_used_is_recorded_with_the_reason(shadow: Shadow, said: str) -> None:
    _, [alone] = solve(Threshold())
    service = simulate()
    problem_id = service.submit("What is 0?", Threshold(), Options(), shadows=[SmallOnly()])
    stored: StoredProblem = service.store._contents.problems[problem_id]
    service.store._contents.problems[problem_id] = replace(stored, shadows=(shadow, *stored.shadows))
    while service.turn():
        pass
    assert service.state(problem_id) == alone
    found = records(service, alone)
    broken, usable = ([each for each in found if each.shadow == place] for place in range(2))
    assert skips(broken) == {Skip.UNUSABLE}
    assert all(isinstance(each.outcome, Skipped) and said in each.outcome.detail for each in broken)
    assert {(each.policy.name, each.policy.parameters_digest) for each in broken} == {(shadow.policy.name, "")}
    assert usable
    assert skips(usable) == set()


def test_an_artefact_that_breaks_the_building_of_a_shadow_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_(_self: Pomdp, _artefact: object) -> None:
        raise ZeroDivisionError

    shadow = Pomdp(large_token_price=2e-4).fitted(artefact())
    monkeypatch.setattr(Pomdp, "_prepare", break_)
    service, [state] = solve(Threshold(), [shadow])
    assert state.answer == solve(Threshold())[1][0].answer
    found = records(service, state)
    assert skips(found) == {Skip.UNUSABLE}
    assert "cannot be loaded (ZeroDivisionError)" in str(found[0].outcome)


def test_shadows_that_find_no_time_are_recorded_as_skipped() -> None:
    service, [state] = solve(Threshold(), OTHERS)
    decided = tuple(each for each in state.decisions if each.decided_by is DecidedBy.POLICY)[:2]
    policies = PolicyCache(service.store, shadow_time_s=0.005)
    with service.store.begin() as transaction:
        locked: LockedProblem = transaction.lock([state.problem_id])[state.problem_id]
    ticks = iter([0.0, 0.001, 0.005, 0.006, 0.006, 0.007, 0.008, 0.009])
    after = locked.state.evolve(decisions=decided)
    found = decide_as_shadows(locked, after, policies=policies, used_s=lambda: next(ticks))
    assert [(each.number, each.shadow) for each in found] == [
        (each.number, place) for each in decided for place in range(4)
    ]
    skipped = [isinstance(each.outcome, Skipped) for each in found]
    assert skipped == [False, False, True, True, False, False, False, False]
    assert skips(found) == {Skip.NO_TIME}
    assert "TRIM_SHADOW_TIME_MS" in str(found[2].outcome)


def test_nothing_is_built_for_a_problem_without_new_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    service = simulate()
    problem_id = service.submit("What?", Threshold(), Options(), shadows=OTHERS)
    monkeypatch.setattr(shadowing, "_build", None)
    service.sweep()
    assert service.store.shadow_decisions(problem_id) == []


def test_few_shadows_are_loaded_at_a_time_and_the_others_decide_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_cache, "SHADOW_LOADS", 2)
    shadows = [Pomdp(large_token_price=1e-4 * number).fitted(artefact()) for number in range(1, 5)]
    service, [state] = solve(Threshold(), shadows)
    decided = tuple(each for each in state.decisions if each.decided_by is DecidedBy.POLICY)[:1]
    policies = PolicyCache(service.store)
    transactions = 0

    def decide() -> list[Skip | None]:
        nonlocal transactions
        transactions += 1
        with service.store.begin() as transaction:
            locked: LockedProblem = transaction.lock([state.problem_id])[state.problem_id]
        found = decide_as_shadows(locked, locked.state.evolve(decisions=decided), policies=policies)
        return [each.outcome.reason if isinstance(each.outcome, Skipped) else None for each in found]

    assert policies.loading(decide) == [None, None, Skip.NO_TIME, Skip.NO_TIME]
    assert transactions == 2, "both are loaded together"
    assert policies.loading(decide) == [None] * 4
