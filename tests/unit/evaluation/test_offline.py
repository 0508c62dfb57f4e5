"""Policies on the bundled models, without a broker or a database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from uuid import UUID

import pytest

from evaluation.offline import GREEDY, LIMITS, Models
from recipe.exact_checker import ExactChecker
from recipe.problems.checker import first_error
from recipe.problems.drawing import Split, draw
from recipe.problems.story import problems_of
from shared.cancellation import Cancellation
from shared.domain.options import Options, Wrappers
from shared.domain.status import StopReason
from shared.engines.embedded.generator import EmbeddedGenerator
from shared.engines.embedded.scorer import EmbeddedScorer
from shared.engines.port import Meter, ScoringRequest
from shared.machine.state import State
from shared.policies.baselines import LargeOnly, Random, SmallOnly
from shared.policies.threshold import Threshold
from shared.policies.wrapping import UNWRAPPED
from simulation.simulated_service import SimulatedService
from simulation.workers import Engines
from tests.unit.simulation.conftest import quiet  # noqa: F401 - a fixture

BUNDLED = Path(__file__).parents[3] / "models"
STORIES = list(islice(draw(Split.TEST), 10))
PROBLEMS = problems_of(STORIES)


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    with Models(BUNDLED / "small", BUNDLED / "large", BUNDLED / "prm") as loaded:
        yield loaded


def texts(states: list[State]) -> list[list[str]]:
    return [[step.text for step in state.steps] for state in states]


def test_thresholds_at_the_ends_give_the_solutions_of_each_model_alone(models: Models) -> None:
    small, large = models.solve(PROBLEMS, SmallOnly()), models.solve(PROBLEMS, LargeOnly())
    assert texts(models.solve(PROBLEMS, Threshold(threshold=0))) == texts(small)
    assert texts(models.solve(PROBLEMS, Threshold(threshold=1))) == texts(large)
    assert all(state.stop_reason is StopReason.FINAL_ANSWER for state in large)
    assert all(state.ledger.large_out == 0 for state in small)
    assert all(state.ledger.large_out == sum(step.tokens for step in state.steps) for state in large)


def test_written_steps_and_scores_are_remembered(models: Models) -> None:
    first = models.solve(PROBLEMS, Threshold(threshold=0.5))
    engines = [models._small._engine, models._large._engine]
    runs = [engine._model.runs for engine in engines]  # type: ignore[attr-defined]
    assert texts(models.solve(PROBLEMS, Threshold(threshold=0.5))) == texts(first)
    assert [engine._model.runs for engine in engines] == runs  # type: ignore[attr-defined]


def test_with_the_exact_checker_every_first_error_of_the_small_model_is_rewritten(models: Models) -> None:
    checked = models.solve(PROBLEMS, Threshold(threshold=0.5), scorer=ExactChecker())
    for story, state, small in zip(STORIES, texts(checked), texts(models.solve(PROBLEMS, SmallOnly())), strict=True):
        right = first_error(story.steps, tuple(small))
        assert state[:right] == small[:right]
    escalated = [state.escalation_count > 0 for state in checked]
    assert escalated == [
        first_error(story.steps, tuple(steps)) < len(steps)
        for story, steps in zip(STORIES, texts(models.solve(PROBLEMS, SmallOnly())), strict=True)
    ]


def test_the_exact_checker_scores_the_first_wrong_step_alone_as_wrong() -> None:
    story = STORIES[0]
    steps = (*story.steps[:1], "No.", "No.")
    request = ScoringRequest(problem_id=UUID(int=1), question=story.question, steps=steps, newest=3, timeout_s=1.0)
    assert list(ExactChecker().score(request, Cancellation(), Meter()).values) == [1.0, 0.0, 1.0]


def test_models_that_remember_book_what_engines_without_memory_compute(models: Models) -> None:
    runs = [
        (SmallOnly(), UNWRAPPED),
        (LargeOnly(), UNWRAPPED),
        (Threshold(threshold=0.5), UNWRAPPED),
        (Threshold(threshold=0.9999), Wrappers(take_over=True)),
        (Random(p=0.4), Wrappers(budget=60)),
    ]
    problems = PROBLEMS[:3]
    with ExitStack() as stack:
        engines = Engines(
            small=stack.enter_context(closing(EmbeddedGenerator(BUNDLED / "small"))),
            large=stack.enter_context(closing(EmbeddedGenerator(BUNDLED / "large"))),
            prm=stack.enter_context(closing(EmbeddedScorer(BUNDLED / "prm"))),
        )
        # One service for all runs: an engine's cache must not know a problem's id from another run.
        service, options = SimulatedService(engines), Options(limits=LIMITS, sampling=GREEDY)
        ids = [
            service.submit(question, policy, options, wrappers=wrappers)
            for policy, wrappers in runs
            for question, _ in problems
        ]
        service.run(threads=len(ids))
        computed = [service.state(problem_id).ledger for problem_id in ids]
    solved = [state for policy, wrappers in runs for state in models.solve(problems, policy, wrappers=wrappers)]
    assert [state.ledger for state in solved] == computed


def test_another_prm_scores_what_the_same_models_have_written(models: Models) -> None:
    small = models.solve(PROBLEMS, SmallOnly())
    runs = models._small._engine._model.runs  # type: ignore[attr-defined]
    with models.with_prm(BUNDLED / "prm-lite") as others:
        scored = others.solve(PROBLEMS, Threshold(threshold=1e-9))
    assert models._small._engine._model.runs == runs  # type: ignore[attr-defined]
    assert texts(scored) == texts(small)
    assert {record.scoring.model.split("@")[0] for state in scored for record in state.decisions if record.scoring} == {
        "embedded/prm-lite"
    }


def test_models_without_a_prm_run_no_policy_that_reads_scores() -> None:
    with Models(BUNDLED / "small", BUNDLED / "small") as loaded, pytest.raises(RuntimeError, match="without a PRM"):
        loaded.solve(PROBLEMS, Threshold(threshold=0.5))
