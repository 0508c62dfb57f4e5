"""Calibration of PRM scores: how far a score is from the share of right steps among those that have it.

A score is calibrated if, of all steps that score s, the share s is right. Fitted corrections map scores to calibrated
ones. All resampling draws whole problems, because scores of one solution resemble each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluation.bootstrap import CONFIDENCE, RESAMPLES, Interval
from shared.errors import PermanentError

Array = npt.NDArray[np.float64]

BINS = 10

_TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)

_LEAST_LOGIT_SCORE = 1e-6
"""Scores are kept this far from 0 and 1 before their logit is taken."""

_TEMPERATURES = (0.01, 100.0)
"""Bounds of the fitted temperature."""


class TooFewLabels(PermanentError):
    """Too few labelled scores; solve more problems with known answers."""

    code = "too_few_labels"


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Scores with labels.

    Raises:
        ValueError: The arrays differ in length, or are empty.
    """

    scores: Array
    """From 0 to 1, shape [n]."""
    labels: Array
    """1 if right, 0 if wrong, shape [n]."""
    problems: npt.NDArray[np.int64]
    """Index of each score's problem, shape [n]."""

    def __post_init__(self) -> None:
        if not len(self.scores) == len(self.labels) == len(self.problems) > 0:
            raise ValueError("each score has one label and one problem, and there is at least one score")

    def only(self, chosen: npt.NDArray[np.bool_]) -> Labelled:
        """Return the chosen scores."""
        return Labelled(scores=self.scores[chosen], labels=self.labels[chosen], problems=self.problems[chosen])

    def corrected(self, correction: Callable[[Array], Array]) -> Labelled:
        """Return the same labels with corrected scores."""
        return Labelled(scores=correction(self.scores), labels=self.labels, problems=self.problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Scores within a range."""

    low: float
    high: float
    count: int
    score: float
    """Mean score."""
    right: float
    """Share of right steps."""
    interval: Interval
    """Of the share of right steps."""


def reliability(labelled: Labelled, *, bins: int = BINS, seed: int = 0, resamples: int = RESAMPLES) -> list[Bin]:
    """Divide the scores into bins of equal width, and compare the mean score of each with its share of right steps.

    Empty bins are left out.
    """
    sums = _sums(labelled, bins)
    counts, scores, rights = sums.sum(axis=1)
    drawn_counts, _, drawn_rights = _resampled(sums, seed=seed, resamples=resamples)
    edges = np.linspace(0, 1, bins + 1)
    found = []
    for place in np.flatnonzero(counts):
        drawn = drawn_counts[:, place] > 0
        shares = drawn_rights[drawn, place] / drawn_counts[drawn, place]
        found.append(
            Bin(
                low=float(edges[place]),
                high=float(edges[place + 1]),
                count=int(counts[place]),
                score=float(scores[place] / counts[place]),
                right=float(rights[place] / counts[place]),
                interval=Interval(*np.quantile(shares, _TAILS).tolist()),
            )
        )
    return found


def calibration_error(labelled: Labelled, *, bins: int = BINS) -> float:
    """Compute the expected calibration error (ECE): the mean distance of a bin's scores from its share of right steps.

    Bins weigh as many scores as they hold (Guo et al. 2017, arXiv 1706.04599, equation 3).
    """
    return float(_error(_sums(labelled, bins).sum(axis=1)))


def error_interval(labelled: Labelled, *, bins: int = BINS, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Compute the 95 % bootstrap interval of the ECE over problems.

    The ECE of a sample exceeds that of its population, because distances have no sign, and the ECE of a resample
    exceeds that of the sample by about as much. The basic bootstrap (Davison and Hinkley 1997, section 5.2.1) reflects
    the resamples at the sample's value, which removes this bias; percentiles would double it.
    """
    sums = _sums(labelled, bins)
    errors = _error(_resampled(sums, seed=seed, resamples=resamples))
    high, low = 2 * _error(sums.sum(axis=1)) - np.quantile(errors, _TAILS)
    return Interval(float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1)))


def brier_score(labelled: Labelled) -> float:
    """Compute the mean squared distance of the scores from their labels."""
    return float(np.mean((labelled.scores - labelled.labels) ** 2))


def fit_temperature(labelled: Labelled) -> float:
    """Fit the temperature T that makes sigmoid(logit(score) / T) most likely (Guo et al. 2017, section 4.2).

    The negative log-likelihood is convex in 1 / T, so its derivative has one root, which bisection finds.

    Returns:
        A temperature from 0.01 to 100; above 1 if the scores are too certain.
    """
    logits = _logit(labelled.scores)
    low, high = (1 / bound for bound in reversed(_TEMPERATURES))
    for _ in range(60):
        inverse = float(np.sqrt(low * high))
        slope = float(np.sum((_sigmoid(inverse * logits) - labelled.labels) * logits))
        low, high = (low, inverse) if slope > 0 else (inverse, high)
    return 1 / float(np.sqrt(low * high))


def with_temperature(temperature: float) -> Callable[[Array], Array]:
    """Return the correction by a temperature."""
    return lambda scores: _sigmoid(_logit(scores) / temperature)


def fit_isotonic(labelled: Labelled) -> Callable[[Array], Array]:
    """Fit the rising function with the least squared distance from the labels, by pooling adjacent violators.

    Source: Zadrozny and Elkan, "Transforming classifier scores into accurate multiclass probability estimates" (2002).

    Returns:
        The correction. It is linear between the scores that were seen, and constant beyond them.
    """
    scores, places, counts = np.unique(labelled.scores, return_inverse=True, return_counts=True)
    means = np.bincount(places, weights=labelled.labels) / counts
    values: list[float] = []
    weights: list[int] = []
    widths: list[int] = []
    for mean, count in zip(means.tolist(), counts.tolist(), strict=True):
        value, weight, width = mean, count, 1
        while values and values[-1] >= value:
            value = (value * weight + values[-1] * weights[-1]) / (weight + weights[-1])
            weight, width = weight + weights[-1], width + widths[-1]
            del values[-1], weights[-1], widths[-1]
        values.append(value)
        weights.append(weight)
        widths.append(width)
    fitted = np.repeat(values, widths)
    return lambda wanted: np.interp(wanted, scores, fitted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How well scores are calibrated."""

    error: float
    """ECE."""
    interval: Interval
    """Of the ECE."""
    brier: float

    @classmethod
    def of(cls, labelled: Labelled) -> Quality:
        """Measure scores."""
        return cls(error=calibration_error(labelled), interval=error_interval(labelled), brier=brier_score(labelled))


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrections:
    """Corrections that were fitted on one half of the problems, measured on the other half."""

    fitted_on: int
    """Number of problems."""
    measured_on: int
    """Number of problems."""
    temperature: float
    uncorrected: Quality
    by_temperature: Quality
    by_isotonic: Quality


def compare_corrections(labelled: Labelled, *, seed: int = 0) -> Corrections:
    """Fit both corrections on half of the problems, drawn by lot, and measure them on the others.

    Raises:
        TooFewLabels: There are fewer than 4 problems, or the half to fit on has labels of one kind only.
    """
    problems = np.unique(labelled.problems)
    if len(problems) < 4:  # noqa: PLR2004 - two in each half
        raise TooFewLabels(f"{len(problems)} problems have labelled scores; a fit and its measurement need at least 4.")
    half = np.random.default_rng(seed).permutation(problems)[: len(problems) // 2]
    is_fitted = np.isin(labelled.problems, half)
    fitted, held_out = labelled.only(is_fitted), labelled.only(~is_fitted)
    if len(np.unique(fitted.labels)) == 1:
        raise TooFewLabels("All labels in the half to fit on are the same; solve more problems with known answers.")
    temperature = fit_temperature(fitted)
    return Corrections(
        fitted_on=len(half),
        measured_on=len(problems) - len(half),
        temperature=temperature,
        uncorrected=Quality.of(held_out),
        by_temperature=Quality.of(held_out.corrected(with_temperature(temperature))),
        by_isotonic=Quality.of(held_out.corrected(fit_isotonic(fitted))),
    )


def _sums(labelled: Labelled, bins: int) -> Array:
    """Sum by problem and bin: shape [3, problems, bins] of counts, scores and labels."""
    _, problems = np.unique(labelled.problems, return_inverse=True)
    places = np.minimum((labelled.scores * bins).astype(np.int64), bins - 1) + problems * bins
    size = (int(problems.max()) + 1) * bins
    columns = (np.ones_like(labelled.scores), labelled.scores, labelled.labels)
    return np.stack([np.bincount(places, weights=each, minlength=size).reshape(-1, bins) for each in columns])


def _resampled(sums: Array, *, seed: int, resamples: int) -> Array:
    """Draw problems with replacement, and sum over them: shape [3, resamples, bins]."""
    size = sums.shape[1]
    drawn = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=resamples)
    return np.tensordot(drawn.astype(np.float64), sums, axes=(1, 1)).swapaxes(0, 1)


def _error(sums: Array) -> Array:
    """Compute the ECE from sums of counts, scores and labels by bin: shape [3, ..., bins]."""
    counts, scores, rights = sums
    errors: Array = np.abs(scores - rights).sum(axis=-1) / counts.sum(axis=-1)
    return errors


def _logit(scores: Array) -> Array:
    kept = np.clip(scores, _LEAST_LOGIT_SCORE, 1 - _LEAST_LOGIT_SCORE)
    logits: Array = np.log(kept / (1 - kept))
    return logits


def _sigmoid(values: Array) -> Array:
    # The same as 1 / (1 + exp(-x)), but it never overflows.
    return 0.5 * (1 + np.tanh(values / 2))
