"""Intervals of a study's metrics: checked by hand, against the slow reference, and against published figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from evaluation import metrics
from evaluation.curves import Envelopes
from evaluation.metrics import Baselines, Point
from evaluation.resampling import Resampling
from evaluation.study import Setting, Study, Trial
from evaluation.true_cost import Computed
from shared.domain.ledger import Ledger


def setting(policy: str, *trials: tuple[bool, int], label: str = "") -> Setting:
    made = [Trial(is_solved=solved, large_tokens=spent, ledger=Ledger(large_out=spent)) for solved, spent in trials]
    return Setting(policy=policy, label=label or policy, trials=made)


def study(problems: int, *settings: Setting, small: Setting, large: Setting, seeds: int = 1) -> Study:
    prices = Computed(small=1, prm=1, large=1)
    return Study(title="", problems=problems, seeds=seeds, small=small, large=large, settings=settings, prices=prices)


SMALL = setting("small-only", (True, 0), (False, 0), (False, 0), (False, 0))
LARGE = setting("large-only", (True, 100), (True, 100), (True, 100), (False, 100))
HALF = setting("threshold", (True, 0), (True, 40), (False, 40), (False, 20), label="threshold 0.5")


def test_values_are_those_of_the_definitions() -> None:
    resampling = Resampling(study(4, HALF, small=SMALL, large=LARGE))
    assert resampling.accuracy(HALF).value == 0.5
    assert resampling.share(HALF).value == 0.25
    assert resampling.recovered(HALF).value == 0.5
    assert resampling.relative_benefit(HALF).value == 1.0
    assert resampling.mean(HALF, lambda trial: 2 * trial.large_tokens).value == 50
    # From (0, 0) to (0.25, 0.5) to (1, 1).
    assert resampling.cost_to_recover("threshold", 0.25).value == 0.125
    assert resampling.cost_to_recover("threshold", 0.75).value == 0.625
    assert resampling.area_recovered("threshold").value == 0.0625 + 0.5625


def test_values_agree_with_the_reference_on_random_studies() -> None:
    rng = np.random.default_rng(5)

    def drawn(policy: str, *, accuracy: float, spent: int) -> Setting:
        trials = [(bool(rng.random() < accuracy), int(rng.integers(spent + 1))) for _ in range(60)]
        return setting(policy, *trials)

    small, large = drawn("small-only", accuracy=0.2, spent=0), drawn("large-only", accuracy=0.9, spent=200)
    curve = [drawn("threshold", accuracy=part, spent=int(300 * part)) for part in (0.1, 0.4, 0.5, 0.5, 0.8, 0.95)]
    resampling = Resampling(study(20, *curve, small=small, large=large, seeds=3), resamples=10)
    baselines = Baselines(small=small.trials, large=large.trials)
    points = [baselines.point(each.trials) for each in curve]
    for each, point in zip(curve, points, strict=True):
        assert resampling.share(each).value == pytest.approx(point.share)
        assert resampling.recovered(each).value == pytest.approx(point.recovered)
        assert resampling.relative_benefit(each).value == pytest.approx(baselines.relative_benefit(each.trials))
    for target in (0.0, 0.5, 0.8, 0.95, 1.0):
        expected = metrics.cost_to_recover(points, target)
        assert resampling.cost_to_recover("threshold", target).value == pytest.approx(expected)
    assert resampling.area_recovered("threshold").value == pytest.approx(metrics.area_recovered(points))


def test_envelopes_agree_with_the_reference_also_at_ties_and_beyond_the_baselines() -> None:
    rng = np.random.default_rng(1)
    shares = rng.integers(0, 7, (500, 4)) / 5
    recovered = rng.integers(-2, 8, (500, 4)) / 5
    envelopes = Envelopes.of(shares, recovered)
    for target in (0.0, 0.4, 0.5, 1.0):
        costs = envelopes.costs_to_recover(target)
        for row in range(500):
            points = [Point(*each) for each in zip(shares[row], recovered[row], strict=True)]
            assert costs[row] == pytest.approx(metrics.cost_to_recover(points, target))
    areas = envelopes.areas_recovered()
    for row in range(500):
        points = [Point(*each) for each in zip(shares[row], recovered[row], strict=True)]
        assert areas[row] == pytest.approx(metrics.area_recovered(points))


CORRECT = (182, 254, 274, 296, 302, 289, 327, 324, 325, 317, 337, 329, 322, 337, 343, 330, 341, 353, 357, 358, 365)
"""Right answers of 500 with thresholds 0, 0.05, ..., 1 in the released runs of the paper (arXiv 2601.10245): MATH-500,
Qwen2.5-1.5B with Qwen2.5-7B."""
LARGE_TOKENS = (
    0.0, 70.684, 98.218, 107.162, 135.918, 139.946, 133.492, 145.338, 164.538, 160.27, 163.838, 165.396, 184.492,
    188.59, 171.012, 211.034, 210.172, 204.772, 219.062, 233.344, 494.84,
)  # fmt: skip
"""Large tokens per problem in the same runs."""


def test_costs_of_the_released_runs_are_those_that_were_published() -> None:
    shares = np.array([LARGE_TOKENS]) / LARGE_TOKENS[-1]
    recovered = (np.array([CORRECT]) - CORRECT[0]) / (CORRECT[-1] - CORRECT[0])
    costs = [Envelopes.of(shares, recovered).costs_to_recover(target)[0] for target in (0.5, 0.8, 0.95)]
    assert costs == pytest.approx([0.197, 0.278, 0.434], abs=0.0005)


def test_an_interval_is_that_of_the_binomial_where_the_answer_is_known() -> None:
    solved = [(index < 50, 10) for index in range(100)]
    half = setting("half", *solved)
    all_right = setting("large-only", *[(True, 10)] * 100)
    found = Resampling(study(100, half, small=setting("s", *[(False, 0)] * 100), large=all_right)).accuracy(half)
    assert found.interval is not None
    assert found.interval.low == pytest.approx(0.40, abs=0.015)
    assert found.interval.high == pytest.approx(0.60, abs=0.015)


def test_all_seeds_of_a_problem_are_drawn_together() -> None:
    def wide(seeds: int) -> float:
        trials = [(index < 50, 10) for index in range(100) for _ in range(seeds)]
        half, none, every = (setting(name, *trials) for name in ("half", "small-only", "large-only"))
        found = Resampling(study(100, half, small=none, large=every, seeds=seeds)).accuracy(half).interval
        assert found is not None
        return found.high - found.low

    assert wide(5) == wide(1)


def test_a_difference_is_paired() -> None:
    trials: Sequence[tuple[bool, int]] = [(index % 2 == 0, 10) for index in range(100)]
    one, same = setting("one", *trials), setting("same", *trials)
    resampling = Resampling(study(100, one, same, small=setting("s", *[(False, 0)] * 100), large=one))
    difference = resampling.accuracy(one).minus(resampling.accuracy(same))
    assert difference.value == 0
    assert difference.interval is not None
    assert (difference.interval.low, difference.interval.high) == (0, 0)


def test_a_metric_without_meaning_has_neither_value_nor_interval() -> None:
    resampling = Resampling(study(4, SMALL, small=LARGE, large=SMALL))
    for found in (resampling.recovered(SMALL), resampling.share(SMALL), resampling.cost_to_recover("small-only", 0.5)):
        assert (found.value, found.interval, found.undefined) == (None, None, 1.0)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="no policy 'other'"):
        Resampling(study(4, small=SMALL, large=LARGE)).area_recovered("other")
