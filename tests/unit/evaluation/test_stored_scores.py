from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from evaluation.score_calibration import TooFewLabels
from evaluation.stored_scores import Collected, NoScores, Scored, SeveralPrms, collect
from stack.client import Api


class Stored(Api):
    """Problems with decisions and steps, as the API lists them."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.lists: dict[str, list[dict[str, Any]]] = {}
        self.problems: list[dict[str, Any]] = []

    def add(
        self,
        *,
        drafts: Sequence[tuple[float | None, str | None]],
        steps: Sequence[float | None] = (),
        verdict: str | None = "correct",
        status: str = "succeeded",
    ) -> None:
        """Add a problem: score and PRM of each draft, and the score of each step."""
        path = f"/v1/problems/{len(self.problems)}"
        self.problems.append({"id": str(len(self.problems)), "status": status, "verdict": verdict})
        self.lists[f"{path}/decisions"] = [
            {"observation": {"score": score}, "scoring": None if prm is None else {"model": prm}}
            for score, prm in drafts
        ]
        self.lists[f"{path}/steps"] = [{"score": score} for score in steps]

    def items(self, path: str, *, count: int | None = None) -> Iterator[dict[str, Any]]:
        return iter(self.lists[path])


@pytest.fixture
def stored() -> Iterator[Stored]:
    with Stored() as api:
        yield api


def test_a_problem_has_the_scores_of_its_drafts_and_apart_those_of_its_steps(stored: Stored) -> None:
    stored.add(drafts=[(0.9, "a"), (0.1, "a"), (None, "a"), (0.7, "a")], steps=[0.9, 0.8, 0.7, None])
    [found] = collect(stored, stored.problems).scored
    assert found == Scored(prm="a", drafts=[0.9, 0.1, 0.7], accepted=[0.9, 0.8, 0.7], is_right=True)


@pytest.mark.parametrize(
    ("verdict", "is_right"),
    [("correct", True), ("incorrect", False), ("no_answer", False), ("unverified", None), (None, None)],
)
def test_the_verdict_labels_a_solution(stored: Stored, verdict: str | None, is_right: bool | None) -> None:
    stored.add(drafts=[(0.5, "a")], verdict=verdict)
    assert collect(stored, stored.problems).scored[0].is_right is is_right


def test_problems_without_usable_scores_are_counted_by_reason(stored: Stored) -> None:
    stored.add(drafts=[(0.5, "a")], status="running", verdict=None)
    stored.add(drafts=[(None, None)])
    stored.add(drafts=[(None, "a"), (None, "a")], steps=[None])  # The PRM returned NaN.
    stored.add(drafts=[(0.5, "a"), (0.5, "b")])
    found = collect(stored, stored.problems)
    assert found.scored == []
    assert found.left_out == {"not ended": 1, "without scores": 2, "scored by two PRMs": 1}


def scored(prm: str, *, is_right: bool | None = True, accepted: Sequence[float] = (0.5, 0.6)) -> Scored:
    return Scored(prm=prm, drafts=accepted, accepted=accepted, is_right=is_right)


def test_scores_of_two_prms_are_never_mixed() -> None:
    both = Collected(scored=[scored("b"), scored("a")], left_out={"not ended": 2})
    with pytest.raises(SeveralPrms, match=r"^The scores are of 2 PRMs \(a, b\); name one with --prm\.$"):
        both.of_one_prm(None)
    with pytest.raises(NoScores, match=r"^The problems have no scores of c, but of a, b\.$"):
        both.of_one_prm("c")
    chosen = both.of_one_prm("a")
    assert (chosen.prm, chosen.scored) == ("a", [scored("a")])
    assert chosen.left_out == {"not ended": 2, "scored by another PRM": 1}


def test_problems_without_any_score_are_refused() -> None:
    with pytest.raises(NoScores, match=r"have no usable PRM scores \(3 without scores\); choose"):
        Collected(scored=[], left_out={"without scores": 3}).of_one_prm("a")


def test_all_accepted_steps_of_a_solution_have_its_label_and_unknown_ones_are_left_out() -> None:
    found = Collected(
        scored=[scored("a"), scored("a", is_right=None), scored("a", is_right=False, accepted=[0.1])], left_out={}
    )
    labelled = found.labelled()
    assert labelled.scores.tolist() == [0.5, 0.6, 0.1]
    assert labelled.labels.tolist() == [1, 1, 0]
    assert labelled.problems.tolist() == [0, 0, 1]
    assert found.unlabelled == 1


def test_labels_need_a_known_answer() -> None:
    with pytest.raises(TooFewLabels, match="submit problems with a reference"):
        Collected(scored=[scored("a", is_right=None), scored("a", accepted=[])], left_out={}).labelled()


def test_a_problem_that_ended_early_tells_nothing_about_its_steps(stored: Stored) -> None:
    stored.add(drafts=[(0.5, "a")], verdict="no_answer", status="failed")
    assert collect(stored, stored.problems).scored[0].is_right is None
