"""Comparing the results of the service with those of the simulation."""

from __future__ import annotations

import pytest

from evaluation.bootstrap import Interval
from evaluation.comparison import Comparison, ServiceDiffers, check, table
from evaluation.metrics import Baselines
from evaluation.study import Trial
from shared.domain.ledger import Ledger

PROBLEMS = 40


def results(*, right: int, tokens: int = 0, first: int = 0) -> list[Trial]:
    """Results of which some are right, from the first on or later."""
    return [
        Trial(
            is_solved=first <= index < first + right,
            large_tokens=tokens,
            ledger=Ledger(small_in=30, prm_tokens=40, large_out=tokens),
        )
        for index in range(PROBLEMS)
    ]


BASELINES = Baselines(small=results(right=10), large=results(right=40, tokens=200))


def compared(service: list[Trial], offline: list[Trial]) -> Comparison:
    return Comparison(service=service, offline=offline, baselines=BASELINES)


def test_equal_results_have_an_interval_of_zero() -> None:
    found = compared(results(right=30, tokens=50), results(right=30, tokens=50))
    assert found.accuracy_difference == found.share_difference == Interval(0.0, 0.0)
    assert found.is_same
    assert found.same_verdicts == PROBLEMS


def test_differences_are_service_minus_offline() -> None:
    found = compared(results(right=40, tokens=60), results(right=20, tokens=50))
    assert found.accuracy_difference.holds(0.5)
    assert found.accuracy_difference.low > 0
    spent = found.share_difference
    assert (spent.low, spent.high) == (pytest.approx(0.05), pytest.approx(0.05)), "10 of 200 tokens, each time"
    assert found.same_verdicts == 20
    assert not found.is_same


def test_one_problem_more_or_less_is_within_the_interval_and_one_token_more_of_each_is_not() -> None:
    offline = results(right=30, tokens=50)
    assert compared(results(right=31, tokens=50), offline).is_same
    costlier = compared(results(right=30, tokens=51), offline)
    assert not costlier.is_same
    assert (costlier.same_verdicts, costlier.same_tokens) == (PROBLEMS, 0)


def test_large_only_has_a_share_on_the_service_too() -> None:
    large = compared(results(right=40, tokens=210), results(right=40, tokens=200))
    assert large.share_difference.low == pytest.approx(0.05)


def test_the_table_shows_for_each_policy_whether_zero_is_within() -> None:
    same, other = compared(results(right=10), results(right=10)), compared(results(right=40), results(right=10))
    *_, first, second = table({"prm": {"small-only": same, "large-only": other}})
    equal = "25.0% | 25.0% | +0.0% to +0.0% | 0.0% | 0.0% | +0.00% to +0.00%"
    assert first == f"| prm, small-only | {equal} | yes | 40 of 40 | 40 of 40 | 70.0 | 70.0 |"
    assert second.endswith("| no | 10 of 40 | 40 of 40 | 70.0 | 70.0 |")


def test_differing_policies_are_named_in_one_sentence() -> None:
    same, other = compared(results(right=10), results(right=10)), compared(results(right=40), results(right=10))
    check({"prm": {"small-only": same}})
    with pytest.raises(ServiceDiffers, match=r"\(large-only with lite\)"):
        check({"prm": {"small-only": same}, "lite": {"small-only": same, "large-only": other}})


def test_results_of_different_problems_are_refused() -> None:
    found = compared(results(right=10)[1:], results(right=10))
    with pytest.raises(ValueError, match="longer"):
        _ = found.same_verdicts
