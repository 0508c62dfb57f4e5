from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.score_calibration import (
    Labelled,
    TooFewLabels,
    brier_score,
    calibration_error,
    compare_corrections,
    error_interval,
    fit_isotonic,
    fit_temperature,
    reliability,
    with_temperature,
)

scores = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30)


def labelled(*pairs: tuple[float, bool], problems: list[int] | None = None) -> Labelled:
    values, labels = zip(*pairs, strict=True)
    return Labelled(
        scores=np.array(values, dtype=float),
        labels=np.array(labels, dtype=float),
        problems=np.array(problems or range(len(pairs))),
    )


def drawn(problems: int, *, temperature: float, seed: int = 0) -> Labelled:
    """Six scores of each problem, which resemble each other, and are too certain by a temperature."""
    rng = np.random.default_rng(seed)
    places = rng.permutation(np.repeat(np.arange(problems), 6))
    logits = 2 * rng.normal(size=problems)[places] + 2 * rng.normal(size=6 * problems)
    rights = rng.random(6 * problems) < 1 / (1 + np.exp(-logits / temperature))
    return Labelled(scores=1 / (1 + np.exp(-logits)), labels=rights.astype(float), problems=places)


def test_the_error_is_the_mean_distance_of_bins_weighted_by_their_scores() -> None:
    sample = labelled((0.95, True), (0.95, False), (0.05, False), (1.0, True))
    # Three scores of 0.967 on average, two thirds of them right; one of 0.05, which is wrong.
    assert calibration_error(sample) == pytest.approx(0.75 * (2.9 - 2) / 3 + 0.25 * 0.05)
    assert brier_score(sample) == pytest.approx((0.05**2 + 0.95**2 + 0.05**2) / 4)


def test_bins_have_their_counts_and_empty_ones_are_left_out() -> None:
    bins = reliability(labelled((0.0, False), (0.2, True), (0.25, False), (1.0, True)), bins=5)
    assert [each.count for each in bins] == [1, 2, 1]
    assert (bins[1].low, bins[1].high, bins[1].score, bins[1].right) == (0.2, 0.4, pytest.approx(0.225), 0.5)
    assert (bins[1].interval.low, bins[1].interval.high) == (0, 1)


def test_the_interval_holds_the_error_of_the_population_although_a_sample_has_a_larger_one() -> None:
    population = calibration_error(drawn(60_000, temperature=1.3))
    samples = [drawn(200, temperature=1.3, seed=seed) for seed in range(1, 41)]
    held = sum(error_interval(each, resamples=300).holds(population) for each in samples)
    assert np.mean([calibration_error(each) for each in samples]) > population
    assert held >= 34  # of 40; 38 are expected


def test_scores_of_one_problem_are_drawn_together() -> None:
    alone = drawn(100, temperature=2.0)
    fivefold = Labelled(
        scores=np.repeat(alone.scores, 5), labels=np.repeat(alone.labels, 5), problems=np.repeat(alone.problems, 5)
    )
    assert error_interval(fivefold).low == pytest.approx(error_interval(alone).low)
    assert error_interval(fivefold).high == pytest.approx(error_interval(alone).high)


def test_the_temperature_of_a_sample_is_found() -> None:
    assert fit_temperature(drawn(20_000, temperature=2.5)) == pytest.approx(2.5, rel=0.05)
    assert fit_temperature(drawn(20_000, temperature=0.6)) == pytest.approx(0.6, rel=0.05)


@pytest.mark.parametrize(
    ("pairs", "expected"), [([(0.9, True), (0.2, False)], 0.01), ([(0.9, False), (0.2, True)], 100.0)]
)
def test_the_temperature_stays_within_bounds_where_scores_are_perfect_or_reversed(
    pairs: list[tuple[float, bool]], expected: float
) -> None:
    assert fit_temperature(labelled(*pairs)) == pytest.approx(expected)


@given(scores)
def test_an_isotonic_fit_rises_keeps_the_mean_and_is_not_worse_than_the_scores(
    pairs: list[tuple[float, bool]],
) -> None:
    sample = labelled(*pairs)
    fit = fit_isotonic(sample)
    fitted = fit(sample.scores)
    assert np.all(np.diff(fit(np.linspace(0, 1, 50))) >= -1e-12)
    assert fitted.mean() == pytest.approx(sample.labels.mean())
    assert brier_score(sample.corrected(fit)) <= brier_score(sample) + 1e-12


def test_an_isotonic_fit_pools_what_falls() -> None:
    fit = fit_isotonic(labelled((0.1, False), (0.3, True), (0.5, False), (0.5, False), (0.9, True)))
    assert fit(np.array([0.0, 0.1, 0.3, 0.5, 0.7, 1.0])).tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3, 2 / 3, 1])


def test_corrections_are_measured_on_problems_that_they_were_not_fitted_on() -> None:
    found = compare_corrections(drawn(801, temperature=2.5))
    assert (found.fitted_on, found.measured_on) == (400, 401)
    assert found.temperature == pytest.approx(2.5, rel=0.2)
    assert found.by_temperature.error < found.uncorrected.error / 2
    assert found.by_isotonic.error < found.uncorrected.error / 2
    assert found.by_temperature.brier < found.uncorrected.brier
    assert found.by_temperature.interval.high < found.uncorrected.interval.low


def test_a_temperature_of_one_changes_nothing() -> None:
    sample = np.array([0.1, 0.5, 0.99])
    assert with_temperature(1.0)(sample) == pytest.approx(sample)


@pytest.mark.parametrize(
    ("sample", "sentence"),
    [
        (labelled((0.1, True), (0.4, False), (0.6, True)), "3 problems have labelled scores"),
        (labelled(*[(0.5, True)] * 6), "All labels in the half to fit on are the same"),
    ],
)
def test_too_few_labels_are_refused(sample: Labelled, sentence: str) -> None:
    with pytest.raises(TooFewLabels, match=sentence):
        compare_corrections(sample)


def test_scores_without_labels_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="each score has one label"):
        Labelled(scores=np.zeros(2), labels=np.zeros(1), problems=np.zeros(2, dtype=int))
