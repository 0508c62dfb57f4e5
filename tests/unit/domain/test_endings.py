"""Where a solution ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.drafts import Finish
from shared.domain.endings import LONGEST_CYCLE, REACH, final_answer, find_ending
from shared.domain.status import StopReason

QUESTION = "What are the roots of x^2 - 10 x + 21?"


def ending(text: str, *before: str, finish: Finish = Finish.SEPARATOR) -> StopReason | None:
    return find_ending(text, finish=finish, before=before, question=QUESTION)


@pytest.mark.parametrize("text", ["So it is seven.", "", "It is \\boxed{7", "\\boxed{3} is the first root."])
def test_a_model_that_ends_by_itself_ends_the_solution(text: str) -> None:
    assert ending(text, "x = 7", finish=Finish.ENDED) is StopReason.FINAL_ANSWER


@pytest.mark.parametrize("finish", [Finish.SEPARATOR, Finish.LENGTH])
def test_a_box_that_the_step_calls_the_answer_ends_the_solution(finish: Finish) -> None:
    assert ending("The answer is \\boxed{7}.", finish=finish) is StopReason.FINAL_ANSWER


@pytest.mark.parametrize(
    "text",
    [
        "On we go.",
        "I will put the answer in `\\boxed{}`.",
        "`\\boxed{3}` is the first root.",
        "x = \\boxed{3} is a root.",
    ],
)
def test_other_steps_end_nothing(text: str) -> None:
    assert ending(text, "One.") is None


@pytest.mark.parametrize("finish", [Finish.SEPARATOR, Finish.LENGTH])
def test_a_step_without_words_ends_the_solution_and_completes_it_right_after_a_box(finish: Finish) -> None:
    assert ending("---", "One.", "\\boxed{3} is one root.", finish=finish) is StopReason.FINAL_ANSWER
    assert ending("---", "\\boxed{3} is one root.", "The other is 7.", finish=finish) is StopReason.DEGENERATE
    assert ending("---", finish=finish) is StopReason.DEGENERATE


@pytest.mark.parametrize("text", ["This makes 1", "It is \\boxed{1", "\\boxed{3} is one root, and the"])
def test_a_step_that_was_cut_ends_the_solution(text: str) -> None:
    assert ending(text, "One.", finish=Finish.LENGTH) is StopReason.STEP_CUT


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("A A", True),
        ("A B A", False),
        ("A B A B", True),
        ("A B B A", False),
        ("A B C A B C", True),
        ("A B C B A B", False),
        ("A B C D A B C D", True),
        ("A B C D E A B C D E", False),
        ("Z A B C D A B C D", True),
    ],
)
def test_a_step_that_is_written_again_and_a_cycle_that_is_completed_again_end_the_solution(
    steps: str, expected: bool
) -> None:
    *before, last = steps.split()
    assert (ending(last, *before) is StopReason.REPEATED) is expected


def test_case_and_white_space_do_not_make_another_step() -> None:
    assert ending("so  X =\n2.", "So x = 2.") is StopReason.REPEATED
    assert ending("So x = 2", "So x = 2.") is None


@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=20))
def test_only_the_last_steps_matter(steps: list[str]) -> None:
    *before, last = steps
    assert ending(last, *before) is ending(last, *before[-REACH:])
    repeats = any(
        steps[-length:] == steps[-2 * length : -length]
        for length in range(1, LONGEST_CYCLE + 1)
        if len(steps) >= 2 * length
    )
    assert (ending(last, *before) is StopReason.REPEATED) is repeats


def test_the_answer_is_in_the_last_step_that_has_a_box() -> None:
    steps = ["\\boxed{3} is one root.", "The answer is \\boxed{7}.", "This is right: 7 < 10."]
    assert final_answer(steps, question=QUESTION) == "7"
    assert final_answer(steps[2:], question=QUESTION) is None
    assert final_answer([], question=QUESTION) is None


def test_an_answer_in_words_is_read_only_without_a_box_and_only_at_the_end() -> None:
    assert final_answer(["x = 3", "The answer is 7."], question=QUESTION) == "7"
    assert final_answer(["x = 3", "#### 7"], question=QUESTION) == "7"
    assert final_answer(["\\boxed{3} is one root.", "The answer is 7."], question=QUESTION) == "3"
    assert final_answer(["The answer is 7.", "Let us check it."], question=QUESTION) is None


def test_a_step_that_was_cut_states_no_answer_in_words() -> None:
    assert final_answer(["The answer is 7"], question=QUESTION, is_cut=True) is None
    assert final_answer(["The answer is \\boxed{7}"], question=QUESTION, is_cut=True) == "7"


@pytest.mark.parametrize("text", ["The answer is 7.", "#### 7", "**Answer:** 7"])
def test_an_answer_in_words_does_not_end_the_solution(text: str) -> None:
    assert ending(text, "One.") is None


def test_a_fence_that_an_early_step_leaves_open_hides_no_answer() -> None:
    assert final_answer(["```\nx = {", "The answer is \\boxed{7}."], question=QUESTION) == "7"
