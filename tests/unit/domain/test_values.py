"""The values that a problem is made of."""

from __future__ import annotations

import pytest

from shared.domain.decisions import Observation
from shared.domain.status import Status
from shared.domain.verdict import Verdict, verdict_of


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("1", None, Verdict.UNVERIFIED),
        (None, "1", Verdict.NO_ANSWER),
        (None, None, Verdict.UNVERIFIED),
        (" x ", "x", Verdict.CORRECT),
        ("1,200.0", "1200", Verdict.CORRECT),
        ("2", "3", Verdict.INCORRECT),
        ("\\frac{1}{2}", "0.5", Verdict.UNVERIFIED),
        ("0.5", "\\frac{1}{2}", Verdict.UNVERIFIED),
    ],
)
def test_an_answer_is_compared_and_never_evaluated(
    answer: str | None, reference: str | None, expected: Verdict
) -> None:
    assert verdict_of(answer, reference) is expected


def test_an_observation_sums_up_the_earlier_scores() -> None:
    observation = Observation(step=2, score=0.9, previous_scores=(0.5, 0.8))
    assert (observation.min_previous, observation.product_previous) == (0.5, 0.4)
    first = Observation(step=0, score=0.9)
    assert (first.min_previous, first.product_previous) == (1.0, 1.0)


def test_only_a_queued_or_running_problem_goes_on() -> None:
    assert {status for status in Status if not status.is_final} == {Status.QUEUED, Status.RUNNING}
