"""Steps labelled by continuation: the first error is found with few completions, and replaced drafts are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

import pytest

from evaluation.engines import LoadedEngines
from evaluation.in_process import solve
from shared.domain.answers import boxed_answer
from shared.domain.drafts import Finish
from shared.domain.options import Sampling
from shared.domain.roles import Author
from shared.domain.status import Status
from shared.domain.verdict import Verdict
from shared.engines.port import InputTooLong
from shared.machine.state import State
from shared.policies.baselines import SmallOnly
from shared.policies.threshold import Threshold
from tests.unit.training.arithmetic_engines import RIGHT, STEPS, Engines, one_error, problems
from training.fitting import EXPLORING
from training.labelling import label_all, reaches_answer


def bad_steps(state: State) -> Sequence[int]:
    return [index for index, step in enumerate(state.steps) if "bad" in step.text]


def test_the_first_error_of_each_solution_is_found() -> None:
    made = Engines(small=one_error)
    with made.loaded() as engines:
        solved = solve(problems(60).problems, Threshold(), engines, sampling=Sampling(), wrappers=EXPLORING)
        labelled, _ = label_all(solved, engines, seed=0)
    assert [each.trace.first_error for each in labelled] == [next(iter(bad_steps(each)), None) for each in solved]
    assert 10 < sum(bool(bad_steps(each)) for each in solved) < 30
    assert {author for each in labelled for author in each.trace.authors} == set(Author)
    assert {score for each in labelled for score in each.trace.scores} == {0.1, 0.9}


def test_a_replaced_draft_that_was_wrong_gives_a_rewrite_and_a_right_one_none() -> None:
    with Engines(small=one_error).loaded() as engines:
        solved = solve(problems(60).problems, Threshold(), engines, sampling=Sampling(), wrappers=EXPLORING)
        labelled, _ = label_all(solved, engines, seed=0)
        again, _ = label_all(solved, engines, seed=0)
    judged = [[rewrite.is_right for rewrite in each.rewrites if rewrite.is_right is not None] for each in labelled]
    assert {is_right for each in judged for is_right in each} == {True}, "the large model never errs"
    assert {len(each) for each in judged} == {0, 1}, "at most one draft of a solution is judged"
    assert any(len(each.rewrites) > 1 for each in labelled), "but all tell how long large steps are"
    assert again == labelled


def test_a_problem_that_the_large_model_cannot_solve_is_wrong_from_its_first_step() -> None:
    with Engines(small=one_error, large=one_error).loaded() as engines:
        solved = solve(problems(60).problems, Threshold(), engines, sampling=Sampling(), wrappers=EXPLORING)
        labelled, _ = label_all(solved, engines, seed=0)
    wrong = [each for each in labelled if each.trace.first_error is not None]
    assert {each.trace.first_error for each in wrong} == {0}, "the large model reaches no answer from any prefix"
    assert len(wrong) == sum(bool(bad_steps(each)) for each in solved) == 40
    assert False in {rewrite.is_right for each in wrong for rewrite in each.rewrites}, (
        "a large step in place of a wrong draft did not help"
    )


def one_solution(engines: LoadedEngines, reference: str = RIGHT, *, question: str = "Problem 0") -> State:
    """Solve a problem with the small model alone, each step scored."""
    [state] = solve([(question, reference)], Threshold(threshold=0.05), engines, sampling=Sampling())
    return state


def cut(state: State, steps: int) -> State:
    """End a solution before its answer, at the maximum number of steps."""
    options = replace(state.options, limits=replace(state.options.limits, max_steps=steps))
    return state.evolve(steps=state.steps[:steps], options=options, answer=None, verdict=Verdict.NO_ANSWER)


def test_solutions_of_which_nothing_is_known_are_left_out_and_counted_by_reason() -> None:
    made = Engines(small=one_error)
    with made.loaded() as engines:
        right, wrong = one_solution(engines), one_solution(engines, question="Problem 1")
        unverified, before = one_solution(engines, "\\frac{14}{2}"), made.large.calls
        failed, empty = wrong.evolve(status=Status.FAILED, verdict=None), cut(right, 3).evolve(steps=())
        labelled, left_out = label_all([right, unverified, failed, empty, unverified], engines, seed=0)
    assert [each.trace.first_error for each in labelled] == [None]
    assert left_out == {"not_succeeded": 1, "unverified": 2, "no_steps": 1}
    assert made.large.calls == before, "no continuation tells more"


def test_a_continuation_whose_answer_cannot_be_compared_labels_nothing() -> None:
    made = Engines(small=one_error)
    made.large.right = "\\frac{14}{2}"
    with made.loaded() as engines:
        wrong = one_solution(engines, question="Problem 4")
        assert wrong.verdict is Verdict.INCORRECT
        assert label_all([wrong], engines, seed=0) == ([], {"unknown_continuation": 1})


def test_a_prefix_that_the_large_model_cannot_continue_labels_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Engines(small=one_error)

    def refuse(*_: object) -> NoReturn:
        raise InputTooLong

    monkeypatch.setattr(made.large, "stream", refuse)
    with made.loaded() as engines:
        wrong = one_solution(engines, question="Problem 4")
        assert label_all([wrong], engines, seed=0) == ([], {"unknown_continuation": 1})


@pytest.mark.parametrize(("question", "first_error"), [("Problem 0", None), ("Problem 1", 1), ("Problem 4", 4)])
def test_a_solution_cut_before_its_answer_may_have_no_wrong_step(question: str, first_error: int | None) -> None:
    with Engines(small=one_error).loaded() as engines:
        [labelled], _ = label_all([cut(one_solution(engines, question=question), 5)], engines, seed=0)
    assert labelled.trace.first_error == first_error


def test_the_search_takes_a_logarithm_of_completions() -> None:
    made = Engines(small=lambda _question, index: index == 3)
    with made.loaded() as engines:
        solved = solve(problems(1).problems, SmallOnly(), engines, sampling=Sampling())
        scored = [step.score for step in solved[0].steps]
        assert scored == [None] * STEPS
        before = made.large.calls
        assert label_all(solved, engines, seed=0) == ([], {"no_scores": 1}), "without scores there is no trace"
        assert made.large.calls == before
        solved = solve(problems(1).problems, Threshold(threshold=0.05), engines, sampling=Sampling())
        [labelled], _ = label_all(solved, engines, seed=0)
    assert labelled.trace.first_error == 3
    assert made.large.calls - before <= 3


@pytest.mark.parametrize(("draft", "reaches"), [("0 good", True), ("0 bad", False), ("So \\boxed{7}", True)])
def test_the_large_model_continues_from_a_prefix(draft: str, reaches: bool) -> None:
    with Engines(small=one_error).loaded() as engines:
        [state] = solve(problems(1).problems, SmallOnly(), engines, sampling=Sampling())
        assert boxed_answer(state.steps[-1].text) == "7"
        assert reaches_answer(state, (replace(state.steps[0], text=draft),), engines) is reaches


@pytest.mark.parametrize(
    ("last", "continues"),
    [
        ({"text": "\\boxed{3} is the first root."}, True),
        ({"text": "The answer is \\boxed{3}."}, False),
        ({"text": "\\boxed{3} is the first root.", "finish": Finish.ENDED}, False),
        ({"text": "The end.", "finish": Finish.ENDED}, True),
        ({"text": "This makes 1", "finish": Finish.LENGTH}, False),
    ],
)
def test_no_step_is_joined_to_one_that_ends_the_solution_with_an_answer_or_was_cut(
    last: dict[str, Any], continues: bool
) -> None:
    made = Engines(small=one_error)
    with made.loaded() as engines:
        [state] = solve(problems(1).problems, SmallOnly(), engines, sampling=Sampling())
        before = made.large.calls
        reaches = reaches_answer(state, (replace(state.steps[0], **last),), engines)
    assert (reaches, made.large.calls > before) == (continues, continues)
