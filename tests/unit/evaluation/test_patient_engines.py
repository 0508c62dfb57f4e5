"""Patient engines repeat what fails, resume at the failed step, and end a run that cannot go on."""

from __future__ import annotations

from collections.abc import Generator
from uuid import UUID

import pytest

from evaluation.patient_engines import Patience, PatientGenerator, PatientScorer
from shared.cancellation import Cancellation, Cancelled
from shared.domain.options import Sampling
from shared.domain.roles import Author
from shared.engines.port import (
    EngineDead,
    EngineFailed,
    GeneratedStep,
    GenerationRequest,
    InputTooLong,
    Meter,
    RequestRefused,
    Scores,
    ScoringRequest,
)
from simulation.world import World, WorldGenerator, WorldScorer

WORLD = World(seed=2, ends=0.0, boxes=0.0, says_nothing=0.0, scores_badly=0.0)
REQUEST = GenerationRequest(
    problem_id=UUID(int=1), question="What?", prefix=(), max_steps=4, max_step_tokens=50, max_tokens=1_000,
    step_timeout_s=1.0, sampling=Sampling(),
)  # fmt: skip
SCORING = ScoringRequest(problem_id=UUID(int=1), question="What?", steps=("a", "b"), newest=2, timeout_s=1.0)


class Failing(WorldGenerator):
    """Fails with each of some errors in turn, each time after one more step."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__(WORLD, Author.SMALL)
        self.errors = list(errors)
        self.prefixes: list[int] = []

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
    ) -> Generator[GeneratedStep, None, None]:
        self.prefixes.append(len(request.prefix))
        for step in super().stream(request, cancellation, meter):
            yield step
            if self.errors:
                raise self.errors.pop(0)


class FailingScorer(WorldScorer):
    errors: list[Exception]

    def score(self, request: ScoringRequest, cancellation: Cancellation, meter: Meter) -> Scores:
        if self.errors:
            raise self.errors.pop(0)
        return super().score(request, cancellation, meter)


class Clock:
    """Time that passes only in pauses."""

    now = 0.0

    def pause(self, seconds: float) -> None:
        self.now += seconds


def patience(limit_s: float = 60.0) -> Patience:
    clock = Clock()
    return Patience(limit_s=limit_s, clock=lambda: clock.now, pause=clock.pause)


def texts(engine: WorldGenerator | PatientGenerator) -> list[str]:
    return [step.text for step in engine.stream(REQUEST, Cancellation(), Meter())]


def test_a_call_resumes_at_the_step_at_which_it_failed() -> None:
    engine = Failing(EngineFailed(), EngineFailed())
    assert texts(PatientGenerator(engine, patience())) == texts(WorldGenerator(WORLD, Author.SMALL))
    assert engine.prefixes == [0, 1, 2]


def test_a_failure_after_the_last_step_is_none() -> None:
    engine = Failing(*[EngineFailed() for _ in range(REQUEST.max_steps)])
    assert len(texts(PatientGenerator(engine, patience()))) == REQUEST.max_steps


def test_a_scorer_repeats_its_call() -> None:
    engine = FailingScorer(WORLD)
    engine.errors = [EngineFailed(), EngineFailed()]
    scores = PatientScorer(engine, patience()).score(SCORING, Cancellation(), Meter())
    assert scores == WorldScorer(WORLD).score(SCORING, Cancellation(), Meter())


@pytest.mark.parametrize("error", [EngineFailed("The server is away."), RequestRefused("The server is away.")])
def test_a_failure_that_lasts_or_that_every_call_would_meet_ends_the_run(error: Exception) -> None:
    bounds, engine = patience(), FailingScorer(WORLD)
    engine.errors = [error] * 100
    with pytest.raises(EngineDead, match=r"The server is away\. Run the same command again to resume"):
        PatientScorer(engine, bounds).score(SCORING, Cancellation(), Meter())
    assert bounds.stopping.is_cancelled
    with pytest.raises(Cancelled):
        texts(PatientGenerator(WorldGenerator(WORLD, Author.SMALL), bounds))


def test_a_success_in_between_begins_a_new_outage() -> None:
    bounds, engine = patience(limit_s=10.0), FailingScorer(WORLD)
    scorer = PatientScorer(engine, bounds)
    for _ in range(5):
        engine.errors = [EngineFailed()] * 4
        scorer.score(SCORING, Cancellation(), Meter())
    assert not bounds.stopping.is_cancelled


def test_an_error_of_one_problem_fails_that_problem_alone() -> None:
    bounds = patience()
    with pytest.raises(InputTooLong):
        texts(PatientGenerator(Failing(InputTooLong()), bounds))
    assert not bounds.stopping.is_cancelled


def test_a_run_that_stops_cancels_calls_and_retries() -> None:
    bounds = patience()
    bounds.stopping.cancel()
    engine = FailingScorer(WORLD)
    engine.errors = [EngineFailed()]
    with pytest.raises(Cancelled):
        PatientScorer(engine, bounds).score(SCORING, Cancellation(), Meter())
    with pytest.raises(Cancelled):
        texts(PatientGenerator(Failing(), bounds))
