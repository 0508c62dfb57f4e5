"""Branches that engines write lead where the simulated service leads, and each is computed once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from uuid import UUID

import pytest
import structlog

from shared.domain.decisions import Action, DecidedBy, Observation
from shared.domain.options import Limits, Options, Sampling
from shared.domain.roles import Author
from shared.engines.port import EngineFailed
from shared.machine.state import State, new_state
from shared.policies.threshold import Threshold
from simulation.simulated_service import SimulatedService
from simulation.workers import Engines
from simulation.world import World, WorldGenerator, WorldScorer
from training.environment import Outcome
from training.solving import EngineBranches, Undecided

POLICY = Threshold(threshold=0.5)
OPTIONS = Options(limits=Limits(max_steps=6), max_attempts=3)
WORLD = World(seed=1, boxes=0.2)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


def engines(world: World = WORLD) -> Engines:
    small, large = (WorldGenerator(world, author) for author in Author)
    return Engines(small=small, large=large, prm=WorldScorer(world))


def problems(count: int, *, reference: str | None = None) -> list[State]:
    return [
        new_state(problem_id=UUID(int=n), question=f"Question {n}?", options=OPTIONS, reference=reference)
        for n in range(count)
    ]


def used(computing: Engines) -> Sequence[int]:
    """Return how many tokens each engine has computed."""
    each = (computing.small, computing.large, computing.prm)
    return [engine.used for engine in each if isinstance(engine, WorldGenerator | WorldScorer)]


def follow(branches: EngineBranches, problem: int) -> tuple[list[Observation], int, Outcome[Undecided]]:
    """Follow the policy: what it sees, what it costs, and how the problem ends."""
    [outcome] = branches.begin([problem])
    seen, spent = [], outcome.large_tokens
    while outcome.turn is not None:
        seen.append(outcome.turn.observation)
        [outcome] = branches.follow([outcome.turn], [POLICY.decide(seen[-1]).action])
        spent += outcome.large_tokens
    return seen, spent, outcome


def test_a_policy_sees_pays_and_reaches_what_it_does_in_the_simulated_service() -> None:
    """The world also has steps without words and without scores, which rules decide."""
    states = problems(60)
    service = SimulatedService(engines())
    ids = [service.submit(state.question, POLICY, OPTIONS) for state in states]
    service.run()
    ended = [service.state(each) for each in ids]
    branches = EngineBranches(
        [each.evolve(reference=end.answer) for each, end in zip(states, ended, strict=True)], engines()
    )
    rules = 0
    for problem, state in enumerate(ended):
        seen, spent, outcome = follow(branches, problem)
        assert seen == [each.observation for each in state.decisions if each.decided_by is DecidedBy.POLICY]
        assert spent == state.ledger.large_out
        assert outcome.is_solved is (state.answer is not None)
        rules += sum(each.decided_by is DecidedBy.RULE for each in state.decisions)
    assert rules > 10
    assert sum(state.answer is not None for state in ended) > 10


def test_a_wrong_answer_is_not_solved() -> None:
    branches = EngineBranches(problems(30, reference="-1"), engines())
    assert not any(follow(branches, problem)[2].is_solved for problem in range(30))


@pytest.mark.parametrize("threads", [0, 4])
def test_each_outcome_is_computed_once(threads: int) -> None:
    computing = engines()
    branches = EngineBranches(problems(8), computing, threads=threads)
    first, _, _, _, again = branches.begin([0, 1, 2, 3, 0])
    assert again is first
    turns = [outcome.turn for outcome in branches.begin(range(4)) if outcome.turn is not None]
    outcomes = branches.follow([*turns, turns[0]], [Action.ACCEPT] * (len(turns) + 1))
    assert outcomes[-1] is outcomes[0]
    before = used(computing)
    assert branches.begin([0])[0] is first
    assert branches.follow(turns, [Action.ACCEPT] * len(turns)) == outcomes[:-1]
    assert used(computing) == before
    branches.follow(turns[:1], [Action.ESCALATE])
    assert used(computing) != before


def test_threads_change_no_outcome() -> None:
    alone, together = (EngineBranches(problems(20), engines(), threads=threads) for threads in (0, 4))
    for one, other in zip(alone.begin(range(20)), together.begin(range(20)), strict=True):
        assert (one.turn and one.turn.observation) == (other.turn and other.turn.observation)


def test_a_problem_fails_after_the_attempts_that_its_options_allow() -> None:
    broken = engines()
    assert isinstance(broken.small, WorldGenerator)
    with broken.small.broken(EngineFailed("The engine failed.")):
        [outcome] = EngineBranches(problems(1, reference="42"), broken).begin([0])
    assert (outcome.turn, outcome.is_solved) == (None, False)


def test_each_problem_has_the_sampling_of_its_options() -> None:
    [state] = problems(1)
    states = [state.evolve(options=Options(sampling=Sampling(seed=seed))) for seed in (3, 4)]
    turns = [outcome.turn for outcome in EngineBranches(states, engines()).begin([0, 1])]
    assert [turn and turn.observation.seed for turn in turns] == [3, 4]
