from __future__ import annotations

import pytest

from evaluation.bootstrap import Interval, interval
from evaluation.metrics import Result, accuracy


def results(right: int, wrong: int) -> list[Result]:
    return [Result(is_solved=index < right, large_tokens=0) for index in range(right + wrong)]


def test_the_interval_of_an_accuracy_is_that_of_a_proportion() -> None:
    found = interval(results(60, 40), statistic=accuracy)
    assert found.low == pytest.approx(0.6 - 1.96 * 0.049, abs=0.02)
    assert found.high == pytest.approx(0.6 + 1.96 * 0.049, abs=0.02)


def test_the_same_seed_gives_the_same_interval_and_another_a_similar_one() -> None:
    first, again, other = (interval(results(6, 4), statistic=accuracy, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert abs(first.low - other.low) < 0.15


def test_pairing_removes_the_variance_that_policies_share() -> None:
    ours, theirs = results(61, 39), results(60, 40)
    found = interval(ours, theirs, statistic=lambda a, b: accuracy(a) - accuracy(b))
    assert found.holds(0.01)
    assert found.high - found.low < 0.05, "two independent samples of this size differ by up to 0.27"


def test_resamples_without_the_statistic_are_left_out() -> None:
    def choosy(drawn: tuple[Result, ...]) -> float:
        if all(result.is_solved for result in drawn):
            raise ValueError("nothing wrong was drawn")
        return 1.0

    assert interval(results(9, 1), statistic=choosy) == Interval(1.0, 1.0)
    with pytest.raises(ValueError, match="any resample"):
        interval(results(9, 0), statistic=choosy)


def test_results_of_different_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        interval(results(2, 2), results(2, 1), statistic=lambda a, b: accuracy(a) - accuracy(b))
    with pytest.raises(ValueError, match="no results"):
        interval([], statistic=accuracy)
