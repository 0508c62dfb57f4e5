"""Two solutions of one question: the first step that differs, with both texts and the numbers of both decisions."""

from __future__ import annotations

from typing import Any

import pytest

from evaluation.runs.divergence import NotComparable, compare_problems, first_divergence


def entry(step: int, text: str | None, *, author: str = "small", action: str = "accept", value: float = 0.9) -> Any:
    return {
        "decision": {
            "step": step,
            "action": action,
            "reason": "score_at_least_threshold",
            "value": value,
            "compared_with": 0.5,
            "numbers": {"right": 0.75},
            "draft": {"text": f"Draft of {step}."},
        },
        "accepted_step": None if text is None else {"author": author, "text": text},
    }


def test_the_first_step_that_differs_has_both_texts_and_decisions() -> None:
    first = [entry(0, "One."), entry(1, "Two."), entry(2, "Three.")]
    second = [entry(0, "One."), entry(1, "Other.", author="large", action="escalate", value=0.2), entry(2, "Four.")]
    found = first_divergence(first, second)
    assert found is not None
    assert (found.step, found.first.text, found.second.text) == (1, "Two.", "Other.")
    assert (found.first.author, found.second.author) == ("small", "large")
    [decision] = found.second.decisions
    assert (decision.action, decision.value, decision.compared_with) == ("escalate", 0.2, 0.5)
    assert (decision.numbers, decision.draft) == ({"right": 0.75}, "Draft of 1.")


def test_the_same_text_of_another_author_differs() -> None:
    found = first_divergence([entry(0, "One.")], [entry(0, "One.", author="large")])
    assert found is not None
    assert found.step == 0


def test_a_solution_that_ends_earlier_has_no_such_step() -> None:
    found = first_divergence([entry(0, "One.")], [entry(0, "One."), entry(1, "Two.")])
    assert found is not None
    assert (found.step, found.first.author, found.first.decisions) == (1, None, ())


def test_all_decisions_on_a_step_are_shown() -> None:
    found = first_divergence([entry(0, "One."), entry(0, "One.")], [entry(0, None)])
    assert found is not None
    assert (len(found.first.decisions), found.second.text) == (2, None)


def test_equal_solutions_do_not_differ() -> None:
    assert first_divergence([entry(0, "One.")], [entry(0, "One.", value=0.6)]) is None


class Service:
    """A service with two problems."""

    def __init__(self, **second: Any) -> None:
        problem = {
            "question": "What?", "erased_at": None, "policy": {"name": "threshold"}, "sampling": {"seed": 0},
            "status": "succeeded", "failure": None, "answer": "1", "verdict": "correct", "steps": 1, "escalations": 0,
            "ledger": {"large_out": 5},
        }  # fmt: skip
        self.problems = {"1": {"id": "1", **problem}, "2": {"id": "2", **problem, **second}}

    def get(self, path: str) -> Any:
        return self.problems[path.rpartition("/")[2]]

    def items(self, path: str) -> Any:
        return [entry(0, f"Text of {path.split('/')[3]}.")]


def test_two_problems_are_compared_with_their_results() -> None:
    found = compare_problems(Service(answer="2"), "1", "2")  # type: ignore[arg-type]
    assert (found["first"]["answer"], found["second"]["answer"], found["first"]["large_tokens"]) == ("1", "2", 5)
    assert found["divergence"]["first"]["text"] == "Text of 1."


@pytest.mark.parametrize(
    ("second", "complaint"), [({"question": "Why?"}, "different questions"), ({"erased_at": "2026"}, "erased")]
)
def test_problems_that_cannot_be_compared_are_refused(second: dict[str, str], complaint: str) -> None:
    with pytest.raises(NotComparable, match=complaint):
        compare_problems(Service(**second), "1", "2")  # type: ignore[arg-type]
