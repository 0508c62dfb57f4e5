"""Bootstrap intervals of every metric of a study, and of differences between its policies.

Each resample draws problems with replacement, and takes all seeds of a problem together: seeds of one problem are not
independent. All policies have the same resamples, so differences are paired (Efron and Tibshirani, An Introduction to
the Bootstrap, 1993, chapters 6 and 13: percentile intervals).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evaluation.bootstrap import CONFIDENCE, RESAMPLES, Interval
from evaluation.curves import Envelopes, Floats
from evaluation.study import Setting, Study, Trial

_BLOCK: Final = 200
"""Resamples that are multiplied at once; it bounds the memory."""

MAX_UNDEFINED: Final = 0.01
"""Largest share of undefined resamples with an interval: the others alone would be a biased sample."""

NO_INTERVAL: Final = "A metric has no interval if it is undefined in more than 1 % of the resamples."
"""Explains tables that lack an interval."""


@dataclass(frozen=True, eq=False)
class Statistic:
    """A metric of a study and of its resamples."""

    samples: Floats
    """First the study itself, then the resamples; NaN where the metric is undefined."""

    @property
    def value(self) -> float | None:
        """The metric of the study; `None` if it is undefined."""
        return None if np.isnan(self.samples[0]) else float(self.samples[0])

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval over the resamples; `None` if more than `MAX_UNDEFINED` of them leave it undefined."""
        if self.undefined > MAX_UNDEFINED:
            return None
        values = np.sort(self.samples[1:][~np.isnan(self.samples[1:])])
        outside = (1 - CONFIDENCE) / 2
        high = min(len(values) - 1, int((1 - outside) * len(values)))
        return Interval(float(values[int(outside * len(values))]), float(values[high]))

    @property
    def undefined(self) -> float:
        """Share of the resamples for which the metric is undefined."""
        return float(np.isnan(self.samples[1:]).mean())

    def minus(self, other: Statistic) -> Statistic:
        """Return the paired difference to the same metric of another policy of the study."""
        return Statistic(self.samples - other.samples)


class Resampling:
    """The resamples of a study."""

    def __init__(self, study: Study, *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        """Draw the resamples.

        Args:
            study: The study; its policies are resampled alike.
            resamples: Number of resamples.
            seed: Seed of the resampling.
        """
        self._study = study
        self._weights = _weights(study.problems, resamples, seed=seed)
        self._small, self._large = self.accuracy(study.small).samples, self.accuracy(study.large).samples
        self._alone = self._large_tokens(study.large)

    def mean(self, setting: Setting, measure: Callable[[Trial], float]) -> Statistic:
        """Compute the mean of a measure of trials."""
        values = np.array([measure(trial) for trial in setting.trials], dtype=np.float64)
        sums = values.reshape(self._study.problems, self._study.seeds).sum(axis=1)
        return Statistic(_multiply(self._weights, sums) / len(values))

    def accuracy(self, setting: Setting) -> Statistic:
        """Compute the share of trials that were solved."""
        return self.mean(setting, lambda trial: trial.is_solved)

    def escalation_rate(self, setting: Setting) -> Statistic:
        """Compute the share of the decisions that escalate; it is undefined without decisions."""
        escalations = self.mean(setting, lambda trial: sum(each.escalates for each in trial.decisions))
        return Statistic(_ratio(escalations.samples, self.mean(setting, lambda trial: len(trial.decisions)).samples))

    def share(self, setting: Setting) -> Statistic:
        """Compute c, the large tokens as a share of those of large-only."""
        return Statistic(_ratio(self._large_tokens(setting), self._alone))

    def recovered(self, setting: Setting) -> Statistic:
        """Compute PGR; it is undefined where large-only is not more accurate than small-only."""
        gap = self._large - self._small
        return Statistic(_ratio(self.accuracy(setting).samples - self._small, np.where(gap > 0, gap, 0.0)))

    def relative_benefit(self, setting: Setting) -> Statistic:
        """Compute dIBC = PGR / c - 1; it is undefined where PGR is, or where no large token was spent."""
        return Statistic(_ratio(self.recovered(setting).samples, self.share(setting).samples) - 1)

    def cost_to_recover(self, policy: str, target: float) -> Statistic:
        """Compute CPT of a policy's curve.

        Args:
            policy: Name of the policy; its settings are the points of the curve.
            target: Part of the gap to recover, in [0, 1].
        """
        return Statistic(self._envelopes(policy).costs_to_recover(target))

    def area_recovered(self, policy: str) -> Statistic:
        """Compute APGR of a policy's curve."""
        return Statistic(self._envelopes(policy).areas_recovered())

    def _large_tokens(self, setting: Setting) -> Floats:
        return self.mean(setting, lambda trial: trial.large_tokens).samples

    def _envelopes(self, policy: str) -> Envelopes:
        """Return the envelope of a policy's curve for each resample.

        Raises:
            ValueError: The study has no such policy.
        """
        settings = [setting for setting in self._study.settings if setting.policy == policy]
        if not settings:
            raise ValueError(f"the study has no policy {policy!r}")
        shares, recovered = (
            np.column_stack([metric(setting).samples for setting in settings])
            for metric in (self.share, self.recovered)
        )
        return Envelopes.of(shares, recovered)


def ratio_statistic(
    above: Sequence[float], below: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> Statistic:
    """Compute a ratio of sums over independent units, such as questions, with its resamples.

    Args:
        above: Numerator of each unit.
        below: Denominator of each unit.
        resamples: Number of resamples.
        seed: Seed of the resampling.
    """
    weights = _weights(len(above), resamples, seed=seed)
    return Statistic(_ratio(*(_multiply(weights, np.array(each, dtype=np.float64)) for each in (above, below))))


def _multiply(weights: NDArray[np.uint16], values: Floats) -> Floats:
    """Sum values in each resample, block by block."""
    starts = range(0, len(weights), _BLOCK)
    return np.concatenate([weights[start : start + _BLOCK].astype(np.float64) @ values for start in starts])


@lru_cache(maxsize=1)
def _weights(problems: int, resamples: int, *, seed: int) -> NDArray[np.uint16]:
    """Return how often each resample has each problem; the first row has each once."""
    drawn = np.random.default_rng(seed).multinomial(problems, np.full(problems, 1 / problems), size=resamples)
    weights = np.vstack([np.ones((1, problems), np.uint16), drawn.astype(np.uint16)])
    weights.flags.writeable = False
    return weights


def _ratio(above: Floats, below: Floats) -> Floats:
    """Divide; the result is NaN where the divisor is 0."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)
