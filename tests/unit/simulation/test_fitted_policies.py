"""Fitted policies in the real orchestrator: artefacts are loaded between transactions, and must fit the models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from services.orchestrator import policy_cache
from services.orchestrator.policy_cache import NotLoaded, PolicyCache
from services.orchestrator.sweeping import admit
from shared.domain.artefacts import EncodedArtefact
from shared.domain.decisions import DecidedBy
from shared.domain.options import Options, PolicyChoice, Wrappers
from shared.domain.roles import Author
from shared.domain.status import Status
from shared.errors import PermanentError, RetryableError
from shared.machine.state import State
from shared.policies.artefact import Artefact, BadArtefact
from shared.policies.pomdp.policy import Pomdp
from shared.policies.registry import BadParameters, UnknownPolicy
from shared.policies.wrapping import Routing
from simulation.simulated_service import SimulatedService
from simulation.store import MemoryStore, MemoryTransaction
from simulation.workers import Engines
from simulation.world import World, WorldGenerator, WorldScorer
from tests.unit.policies.pomdp_models import artefact_of, released_model

WORLD = World(seed=5, says_nothing=0.0, scores_badly=0.0)
MODELS = {"small": "small-model", "large": "large-model", "prm": "prm-model"}


def artefact(**models: str) -> Artefact:
    """Make an artefact for the models of the simulation, except for some."""
    return artefact_of(released_model(), **{**MODELS, **models})


def simulate_engines() -> Engines:
    return Engines(
        small=WorldGenerator(WORLD, Author.SMALL), large=WorldGenerator(WORLD, Author.LARGE), prm=WorldScorer(WORLD)
    )


def simulate() -> SimulatedService:
    return SimulatedService(simulate_engines())


def solve(service: SimulatedService, policy: Pomdp, *, wrappers: Wrappers | None = None) -> State:
    problem_id = service.submit("What?", policy, Options(), wrappers=wrappers or Wrappers())
    while service.turn():
        pass
    return service.state(problem_id)


@pytest.mark.parametrize("parameters", [{}, {"belief": "memoryless"}, {"draft_token_price": 4e-4}])
def test_a_fitted_policy_decides_as_it_does_by_itself(parameters: dict[str, object]) -> None:
    policy = Pomdp.model_validate({"large_token_price": 1e-4, **parameters}).fitted(artefact())
    state = solve(simulate(), policy)
    assert state.status is Status.SUCCEEDED
    version = Routing(policy, number=1).version
    assert {record.policy for record in state.decisions} == {version}
    assert version.version == 1
    for record in state.decisions:
        if record.decided_by is DecidedBy.POLICY:
            decide = policy.decide if record.draft is not None else policy.before_draft
            assert decide(record.observation) == record.decision


@pytest.mark.parametrize("role", ["small", "large", "prm"])
def test_a_policy_does_not_judge_the_work_of_a_model_that_it_was_not_fitted_on(role: str) -> None:
    policy = Pomdp(large_token_price=0.0).fitted(artefact(**{role: "another"}))
    state = solve(simulate(), policy)
    assert state.failure is not None
    assert (state.status, state.failure.code) == (Status.FAILED, "policy_models_differ")
    said = f"pomdp@1 was fitted on the {role} model another, not {MODELS[role]}"
    assert said in state.failure.detail


class WithoutArtefacts(MemoryStore):
    """A store whose artefacts are gone, damaged, or out of reach for a while."""

    def __init__(self, found: EncodedArtefact | RetryableError | None) -> None:
        super().__init__()
        self.found = found

    def read_artefact(self, policy: str, version: int) -> EncodedArtefact | None:
        if isinstance(self.found, RetryableError):
            raise self.found
        return self.found


CHOICE = PolicyChoice(name="pomdp", revision=1, parameters={}, version=3)
DAMAGED = replace(artefact().encoded, arrays=b"nothing of the kind")


@pytest.mark.parametrize(
    ("choice", "found", "expected"),
    [
        (replace(CHOICE, name="dice"), None, UnknownPolicy),
        (replace(CHOICE, parameters={"belief": "blind"}), None, BadParameters),
        (replace(CHOICE, version=None), None, BadParameters),
        (CHOICE, None, BadArtefact),
        (CHOICE, DAMAGED, BadArtefact),
    ],
)
def test_what_is_wrong_with_a_policy_is_raised_by_every_transaction_that_needs_it(
    choice: PolicyChoice, found: EncodedArtefact | None, expected: type[PermanentError]
) -> None:
    cache = PolicyCache(WithoutArtefacts(found))
    for _ in range(2):
        with pytest.raises(expected):
            cache.loading(lambda: cache.routing_of(choice))


def test_an_artefact_that_was_missing_is_looked_up_again_in_the_next_transaction() -> None:
    store = WithoutArtefacts(None)
    cache = PolicyCache(store)
    with pytest.raises(BadArtefact):
        cache.loading(lambda: cache.routing_of(CHOICE))
    store.found = artefact().encoded
    assert cache.loading(lambda: cache.routing_of(CHOICE)).number == CHOICE.version


def test_a_policy_is_read_once_and_returned_until_many_others_were_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_cache, "SIZE", 2)
    store = WithoutArtefacts(artefact().encoded)
    cache = PolicyCache(store)
    first = cache.loading(lambda: cache.routing_of(CHOICE))
    store.found = None
    assert cache.loading(lambda: cache.routing_of(CHOICE)) is first
    store.found = artefact().encoded
    for version in (7, 8):
        cache.loading(lambda version=version: cache.routing_of(replace(CHOICE, version=version)))  # type: ignore[misc]
    with pytest.raises(NotLoaded):
        cache.routing_of(CHOICE)


class CountingStore(MemoryStore):
    """Counts transactions."""

    begun = 0

    @contextmanager
    def begin(self) -> Iterator[MemoryTransaction]:
        self.begun += 1
        with super().begin() as transaction:
            yield transaction


@pytest.mark.parametrize("size", [policy_cache.SIZE, 1])
def test_a_transaction_is_repeated_once_for_all_policies_that_it_needs_even_if_the_cache_keeps_fewer(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(policy_cache, "SIZE", size)
    store = CountingStore()
    service = SimulatedService(simulate_engines(), store=store)
    policies = [Pomdp(large_token_price=1e-4 * number).fitted(artefact()) for number in range(1, 7)]
    problems = [service.submit("What?", each, Options()) for each in policies]
    before = store.begun
    swept = admit(store, window=64, policies=PolicyCache(store), now=lambda: service.clock.now)
    assert len(swept.outgoing) == len(problems)
    assert store.begun - before == 2


def test_a_store_out_of_reach_is_no_fault_of_the_policy() -> None:
    store = WithoutArtefacts(RetryableError())
    cache = PolicyCache(store)
    with pytest.raises(RetryableError):
        cache.loading(lambda: cache.routing_of(CHOICE))
    store.found = artefact().encoded
    assert cache.loading(lambda: cache.routing_of(CHOICE)).number == 3


UNBUILDABLE = {
    "unknown": PolicyChoice(name="of-a-newer-version", revision=1, parameters={}),
    "refused": replace(CHOICE, parameters={"belief": "of a newer version"}),
    "missing": replace(CHOICE, version=9),
}


@pytest.mark.parametrize("choice", UNBUILDABLE.values(), ids=UNBUILDABLE)
def test_many_problems_with_one_policy_that_cannot_be_built_all_fail(choice: PolicyChoice) -> None:
    service = simulate()
    problems = [service.submit(f"What is {number}?", Pomdp().fitted(artefact()), Options()) for number in range(3)]
    for problem_id in problems[:2]:
        service.store.choose(problem_id, choice)
    service.sweep()
    service.store.choose(problems[2], choice)
    while service.turn():
        pass
    failures = [service.state(problem_id).failure for problem_id in problems]
    assert [failure and failure.code for failure in failures] == ["unreadable"] * 3


def test_a_problem_whose_artefact_is_gone_fails_and_no_other() -> None:
    service = simulate()
    kept = service.submit("What?", Pomdp().fitted(artefact()), Options())
    gone = service.submit("What?", Pomdp(large_token_price=1.0).fitted(artefact()), Options())
    service.store.choose(gone, replace(CHOICE, version=9))
    while service.turn():
        pass
    assert service.state(kept).status is Status.SUCCEEDED
    failure = service.state(gone).failure
    assert failure is not None
    assert (failure.code, "has no version 9" in failure.detail) == ("unreadable", True)
