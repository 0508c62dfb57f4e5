"""The method's loop without a service, on the bundled models."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from evaluation.offline import Models, Solver, at_once
from recipe.problems.checker import first_error
from recipe.problems.drawing import Split, draw
from shared.domain.roles import Author

BUNDLED = Path(__file__).parents[3] / "models"
STORIES = list(islice(draw(Split.TEST), 10))


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    with Models(BUNDLED / "small", BUNDLED / "large", BUNDLED / "prm") as loaded:
        yield loaded


def solvers(models: Models) -> list[Solver]:
    return [Solver(models=models, question=story.question) for story in STORIES]


def test_no_threshold_is_small_only_and_an_unreachable_one_has_every_step_written_by_the_large_model(
    models: Models,
) -> None:
    ours = solvers(models)
    small = at_once(lambda solver: solver.solve_alone(Author.SMALL), ours)
    large = at_once(lambda solver: solver.solve_alone(Author.LARGE), ours)
    assert at_once(lambda solver: solver.solve_above(0.0), ours) == small
    assert at_once(lambda solver: solver.solve_above(1.1), ours) == large
    assert all(solution.large_tokens == 0 for solution in small)
    assert all(solution.escalated == len(solution.steps) for solution in large)


def test_what_was_written_and_scored_is_remembered(models: Models) -> None:
    first = at_once(lambda solver: solver.solve_above(0.5), ours := solvers(models))
    runs = [engine._model.runs for engine in models._generators.values()]
    assert at_once(lambda solver: solver.solve_above(0.5), ours) == first
    assert [engine._model.runs for engine in models._generators.values()] == runs


def test_with_the_exact_checker_every_first_error_of_the_small_model_is_written_again(models: Models) -> None:
    for story, solver in zip(STORIES, solvers(models), strict=True):
        expected = story.steps
        solution = solver.solve(lambda steps, expected=expected: first_error(expected, steps) == len(steps) - 1)  # type: ignore[misc]
        small = solver.solve_alone(Author.SMALL).steps
        right = first_error(expected, small)
        assert solution.steps[:right] == small[:right]
        assert (solution.escalated > 0) is (right < len(small))


def test_models_without_a_prm_score_nothing() -> None:
    with Models(BUNDLED / "small", BUNDLED / "small") as loaded, pytest.raises(RuntimeError, match="without a PRM"):
        Solver(models=loaded, question="x").solve_above(0.5)
