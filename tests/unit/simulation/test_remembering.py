"""Engines that remember return what the engine behind them returns, and call it once."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from uuid import UUID

import pytest

from shared.cancellation import Cancellation, Cancelled
from shared.domain.options import Options, Sampling
from shared.domain.roles import Author
from shared.engines.port import GeneratedStep, GenerationRequest, Meter, Scores, ScoringRequest
from shared.policies.registry import build_policy
from simulation.remembering import RememberingGenerator, RememberingScorer
from simulation.simulated_service import SimulatedService
from simulation.workers import Engines
from simulation.world import World, WorldGenerator, WorldScorer

WORLD = World(seed=2, ends=0.0, boxes=0.0, says_nothing=0.0, scores_badly=0.0)
REQUEST = GenerationRequest(
    problem_id=UUID(int=1), question="What?", prefix=(), max_steps=3, max_step_tokens=50, max_tokens=1_000,
    step_timeout_s=1.0, sampling=Sampling(),
)  # fmt: skip
SCORING = ScoringRequest(problem_id=UUID(int=1), question="What?", steps=("a", "b", "c"), newest=2, timeout_s=1.0)


class Counting(WorldGenerator):
    def __init__(self, world: World = WORLD) -> None:
        super().__init__(world, Author.SMALL)
        self.requests: list[GenerationRequest] = []

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
    ) -> Generator[GeneratedStep, None, None]:
        self.requests.append(request)
        yield from super().stream(request, cancellation, meter)


class CountingScorer(WorldScorer):
    requests: list[ScoringRequest]

    def score(self, request: ScoringRequest, cancellation: Cancellation, meter: Meter) -> Scores:
        self.requests.append(request)
        return super().score(request, cancellation, meter)


def texts(engine: WorldGenerator | RememberingGenerator, request: GenerationRequest) -> list[str]:
    return [step.text for step in engine.stream(request, Cancellation(), Meter())]


def test_steps_are_written_once() -> None:
    engine = Counting()
    remembering = RememberingGenerator(engine)
    expected = texts(WorldGenerator(WORLD, Author.SMALL), REQUEST)
    assert texts(remembering, REQUEST) == texts(remembering, REQUEST) == expected
    assert texts(remembering, replace(REQUEST, max_steps=1, prefix=(expected[0],))) == expected[1:2]
    assert len(engine.requests) == 1


def test_a_longer_request_has_the_engine_write_what_is_missing() -> None:
    engine = Counting()
    remembering = RememberingGenerator(engine)
    first = list(remembering.stream(REQUEST, Cancellation(), Meter()))
    longer = replace(REQUEST, max_steps=5)
    assert texts(remembering, longer) == texts(WorldGenerator(WORLD, Author.SMALL), longer)
    rest = engine.requests[1]
    assert (rest.prefix, rest.max_steps) == (tuple(step.text for step in first), 2)
    assert rest.max_tokens == REQUEST.max_tokens - sum(step.tokens for step in first)


def test_a_request_ends_at_its_token_limit_and_at_the_end_of_the_solution() -> None:
    remembering = RememberingGenerator(Counting())
    texts(remembering, REQUEST)
    assert len(texts(remembering, replace(REQUEST, max_tokens=1))) == 1
    ending = World(seed=1, ends=1.0, boxes=0.0, says_nothing=0.0)
    remembering = RememberingGenerator(Counting(ending))
    assert len(texts(remembering, REQUEST)) == len(texts(remembering, REQUEST)) == 1


@pytest.mark.parametrize("change", [{"sampling": Sampling(seed=1)}, {"question": "Who?"}, {"max_step_tokens": 3}])
def test_another_request_is_not_answered_from_memory(change: dict[str, object]) -> None:
    engine = Counting()
    remembering = RememberingGenerator(engine)
    texts(remembering, REQUEST)
    texts(remembering, replace(REQUEST, **change))  # type: ignore[arg-type]
    assert len(engine.requests) == 2


def test_known_steps_have_log_probabilities_for_requests_that_ask() -> None:
    engine = Counting()
    remembering = RememberingGenerator(engine)

    def confidences(*, asks: bool) -> list[tuple[float | None, float | None]]:
        request = replace(REQUEST, reports_confidence=asks)
        return [(step.mean_logprob, step.min_logprob) for step in remembering.stream(request, Cancellation(), Meter())]

    assert confidences(asks=False) == confidences(asks=False) == [(None, None)] * 3
    assert confidences(asks=True) == [
        WORLD.logprobs(Author.SMALL, "What?", (*texts(remembering, REQUEST)[:index],)) for index in range(3)
    ]
    assert len(engine.requests) == 1


def test_known_steps_stop_at_a_cancel() -> None:
    remembering = RememberingGenerator(Counting())
    texts(remembering, REQUEST)
    cancellation = Cancellation()
    steps = remembering.stream(REQUEST, cancellation, Meter())
    next(steps)
    cancellation.cancel()
    with pytest.raises(Cancelled):
        next(steps)


def test_scores_are_computed_once() -> None:
    engine = CountingScorer(WORLD)
    engine.requests = []
    remembering = RememberingScorer(engine)

    def score(**changes: object) -> list[float]:
        request = replace(SCORING, **changes)  # type: ignore[arg-type]
        return list(remembering.score(request, Cancellation(), Meter()).values)

    expected = [WORLD.score("What?", SCORING.steps[:end]) for end in (1, 2, 3)]
    assert score() == score() == expected[1:]
    assert len(engine.requests) == 1
    assert score(newest=3) == expected, "the first one is unknown"
    assert score(steps=("a", "b", "c", "d"), newest=2)[0] == expected[2]
    assert [request.newest for request in engine.requests] == [2, 3, 1]


def test_a_curve_of_policies_costs_what_its_new_prefixes_cost() -> None:
    engine, scorer = Counting(World(seed=4)), CountingScorer(World(seed=4))
    scorer.requests = []
    engines = Engines(
        small=RememberingGenerator(engine), large=WorldGenerator(World(seed=4), Author.LARGE),
        prm=RememberingScorer(scorer),
    )  # fmt: skip
    costs = []
    for _ in range(2):
        service = SimulatedService(engines)
        for number in range(10):
            service.submit(f"What is {number}?", build_policy("threshold", {"threshold": 0.5}), Options())
        service.run(threads=4)
        costs.append((len(engine.requests), len(scorer.requests)))
    assert costs[0] == costs[1]
    assert costs[0][0] > 10
