"""Comparing the results of the service with those of the simulation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evaluation.bootstrap import Interval
from evaluation.comparison import Answered, Comparison, ServiceDiffers, check, summary, table
from evaluation.metrics import Baselines
from evaluation.true_cost import Computed
from shared.domain.ledger import Ledger

PROBLEMS = 40
COMPUTED = Computed(small=30, prm=40, large=50.5)


def results(*, right: int, tokens: int = 0, first: int = 0) -> list[Answered]:
    """Results of which some are right, from the first on or later."""
    return [
        Answered(
            is_solved=(solved := first <= index < first + right),
            large_tokens=tokens,
            answer="7" if solved else None,
            computed=COMPUTED,
        )
        for index in range(PROBLEMS)
    ]


BASELINES = Baselines(small=results(right=10), large=results(right=40, tokens=200))


def compared(service: list[Answered], offline: list[Answered]) -> Comparison:
    return Comparison(service=service, offline=offline, baselines=BASELINES)


def test_only_a_correct_answer_solves_a_problem() -> None:
    for verdict, is_solved in (("correct", True), ("incorrect", False), (None, False)):
        found = Answered.of(verdict=verdict, answer="7", ledger=Ledger(large_out=9, large_in=20))
        assert (found.is_solved, found.large_tokens, found.computed.total) == (is_solved, 9, 29)


def test_equal_results_have_an_interval_of_zero() -> None:
    found = compared(results(right=30, tokens=50), results(right=30, tokens=50))
    assert found.accuracy_difference == found.share_difference == Interval(0.0, 0.0)
    assert found.is_same
    assert found.same_answers == PROBLEMS


def test_differences_are_service_minus_offline() -> None:
    found = compared(results(right=40, tokens=60), results(right=20, tokens=50))
    assert found.accuracy_difference.holds(0.5)
    assert found.accuracy_difference.low > 0
    spent = found.share_difference
    assert (spent.low, spent.high) == (pytest.approx(0.05), pytest.approx(0.05)), "10 of 200 tokens, each time"
    assert found.same_answers == 20
    assert not found.is_same


def test_one_problem_more_or_less_is_within_the_interval_and_one_token_more_of_each_is_not() -> None:
    offline = results(right=30, tokens=50)
    assert compared(results(right=31, tokens=50), offline).is_same
    costlier = compared(results(right=30, tokens=51), offline)
    assert not costlier.is_same
    assert (costlier.same_answers, costlier.same_tokens) == (PROBLEMS, 0)


def test_different_answers_are_counted_even_if_both_are_wrong() -> None:
    wrong = [replace(result, answer=str(index)) for index, result in enumerate(results(right=0))]
    found = compared(wrong, results(right=0))
    assert found.is_same
    assert found.same_answers == 0


def test_large_only_has_a_share_on_the_service_too() -> None:
    large = compared(results(right=40, tokens=210), results(right=40, tokens=200))
    assert large.share_difference.low == pytest.approx(0.05)
    small, routed = (
        compared(results(right=10), results(right=10)),
        compared(results(right=38, tokens=30), results(right=38, tokens=30)),
    )
    assert summary(small=small, large=large, parity=routed, prefix="transfer_") == {
        "transfer_service_small_accuracy": 0.25,
        "transfer_service_large_accuracy": 1.0,
        "transfer_service_accuracy_at_parity": 0.95,
        "transfer_service_large_share_small_alone": 0.0,
        "transfer_service_large_share_large_alone": 1.05,
        "transfer_service_large_share_at_parity": 0.15,
    }


def test_the_table_shows_for_each_policy_whether_zero_is_within() -> None:
    same, other = compared(results(right=10), results(right=10)), compared(results(right=40), results(right=10))
    *_, first, second = table({"test": {"small alone": same, "large alone": other}})
    equal = "25.0% | 25.0% | +0.0% to +0.0% | 0.0% | 0.0% | +0.00% to +0.00%"
    assert first == f"| test, small alone | {equal} | yes | 40 of 40 | 40 of 40 | 120.5 | 120.5 |"
    assert second.endswith("| no | 10 of 40 | 40 of 40 | 120.5 | 120.5 |")


def test_differing_policies_are_named_in_one_sentence() -> None:
    same, other = compared(results(right=10), results(right=10)), compared(results(right=40), results(right=10))
    check({"test": {"small alone": same}})
    with pytest.raises(ServiceDiffers, match=r"\(large alone on transfer problems\)"):
        check({"test": {"small alone": same}, "transfer": {"small alone": same, "large alone": other}})


def test_results_of_different_problems_are_refused() -> None:
    found = compared(results(right=10)[1:], results(right=10))
    with pytest.raises(ValueError, match="longer"):
        _ = found.same_answers
