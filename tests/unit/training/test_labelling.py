"""Steps labelled by continuation: the first error is found with few completions, and replaced drafts are judged."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from evaluation.in_process import solve
from shared.domain.options import Sampling
from shared.domain.roles import Author
from shared.domain.text import boxed_answer
from shared.machine.state import State
from shared.policies.baselines import SmallOnly
from shared.policies.threshold import Threshold
from tests.unit.training.arithmetic_engines import STEPS, Engines, one_error, problems
from training.fitting import EXPLORING
from training.labelling import label_all, reaches_answer


def bad_steps(state: State) -> Sequence[int]:
    return [index for index, step in enumerate(state.steps) if "bad" in step.text]


def test_the_first_error_of_each_solution_is_found() -> None:
    made = Engines(small=one_error)
    with made.loaded() as engines:
        solved = solve(problems(60).problems, Threshold(), engines, sampling=Sampling(), wrappers=EXPLORING)
        labelled = label_all(solved, engines, seed=0)
    assert [each.trace.first_error for each in labelled] == [next(iter(bad_steps(each)), None) for each in solved]
    assert 10 < sum(bool(bad_steps(each)) for each in solved) < 30
    assert {author for each in labelled for author in each.trace.authors} == set(Author)
    assert {score for each in labelled for score in each.trace.scores} == {0.1, 0.9}


def test_a_replaced_draft_that_was_wrong_gives_a_rewrite_and_a_right_one_none() -> None:
    with Engines(small=one_error).loaded() as engines:
        solved = solve(problems(60).problems, Threshold(), engines, sampling=Sampling(), wrappers=EXPLORING)
        labelled = label_all(solved, engines, seed=0)
        again = label_all(solved, engines, seed=0)
    rewrites = [each.rewrite for each in labelled]
    assert set(rewrites) == {True, None}, "the large model never errs"
    assert again == labelled


def test_a_problem_that_the_large_model_cannot_solve_is_wrong_from_its_first_step() -> None:
    with Engines(small=one_error, large=one_error).loaded() as engines:
        solved = solve(problems(60).problems, Threshold(), engines, sampling=Sampling(), wrappers=EXPLORING)
        labelled = label_all(solved, engines, seed=0)
    wrong = [each for each in labelled if each.trace.first_error is not None]
    assert {each.trace.first_error for each in wrong} == {0}, "the large model reaches no answer from any prefix"
    assert len(wrong) == sum(bool(bad_steps(each)) for each in solved) == 40
    assert {each.rewrite for each in wrong} >= {False}, "a large step in place of a wrong draft did not help"


def test_the_search_takes_a_logarithm_of_completions() -> None:
    made = Engines(small=lambda _question, index: index == 3)
    with made.loaded() as engines:
        solved = solve(problems(1).problems, SmallOnly(), engines, sampling=Sampling())
        scored = [step.score for step in solved[0].steps]
        assert scored == [None] * STEPS
        before = made.large.calls
        assert label_all(solved, engines, seed=0) == [], "without scores there is no trace"
        assert made.large.calls == before
        solved = solve(problems(1).problems, Threshold(threshold=0.05), engines, sampling=Sampling())
        [labelled] = label_all(solved, engines, seed=0)
    assert labelled.trace.first_error == 3
    assert made.large.calls - before <= 3


@pytest.mark.parametrize(("draft", "reaches"), [("0 good", True), ("0 bad", False), ("So \\boxed{7}", True)])
def test_the_large_model_continues_from_a_prefix(draft: str, reaches: bool) -> None:
    with Engines(small=one_error).loaded() as engines:
        [state] = solve(problems(1).problems, SmallOnly(), engines, sampling=Sampling())
        assert boxed_answer(state.steps[-1].text) == "7"
        assert reaches_answer(state, (draft,), engines) is reaches
