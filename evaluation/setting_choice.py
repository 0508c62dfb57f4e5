"""Chooses a policy's setting for a target, with intervals: arithmetic on the results of a study.

The choice and its accuracy come from the same problems, so the accuracy is a little optimistic. The interval of the
setting shows how much the choice depends on these problems: it is the choice on each resample of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evaluation.bootstrap import CONFIDENCE, Interval
from evaluation.curves import Floats
from evaluation.resampling import Resampling
from evaluation.study import Study
from shared.errors import TrimError

NONE = -1
"""Choice where no setting meets the target."""


class TargetOutOfReach(TrimError):
    """None of the settings tried meets the target on these problems; choose a lower target."""

    code = "target_out_of_reach"


@dataclass(frozen=True, slots=True)
class Target:
    """What the setting should reach."""

    of: Literal["large_share", "accuracy"]
    """Large tokens that are at most spent, as a share of those of large-only, or accuracy that is at least reached."""
    value: float

    def is_met(self, shares: Floats, accuracies: Floats) -> NDArray[np.bool_]:
        """Tell where shares of large tokens and accuracies, two arrays of one shape, meet the target."""
        return shares <= self.value if self.of == "large_share" else accuracies >= self.value

    def choose(self, shares: Floats, accuracies: Floats) -> NDArray[np.intp]:
        """Choose a setting for each row: the dearest one within the share, or the cheapest one with the accuracy.

        Args:
            shares: Shares of large tokens, of shape (rows, settings).
            accuracies: Accuracies, of the same shape.

        Returns:
            The index of a setting for each row, or `NONE`.
        """
        fits = self.is_met(shares, accuracies)
        if self.of == "large_share":
            best = np.where(fits, shares, -np.inf).argmax(axis=1)
        else:
            best = np.where(fits, shares, np.inf).argmin(axis=1)
        return np.where(fits.any(axis=1), best, NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure and its 95 % interval over problems."""

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A setting that meets a target."""

    setting: Estimate
    """The interval holds the choices on 95 % of the resamples on which some setting meets the target."""
    large_share: Estimate
    accuracy: Estimate
    reached: float
    """Share of the resamples on which this setting meets the target."""


def neighbours(study: Study, values: Sequence[float], target: Target) -> tuple[float, float]:
    """Return the values on both sides of the one that meets the target, or of the nearest one if none does.

    Beside the first and the last value there is no limit: minus or plus infinity.

    Args:
        study: Results of the policy at each value, and of both models alone.
        values: Value of the setting for each of the study's settings, in ascending order.
        target: The target.
    """
    shares, accuracies = _curves(study, Resampling(study, resamples=1))
    [chosen, *_] = target.choose(shares, accuracies)
    if chosen == NONE:
        chosen = shares[0].argmin() if target.of == "large_share" else accuracies[0].argmax()
    bounded = [-math.inf, *values, math.inf]
    return bounded[chosen], bounded[chosen + 2]


def find_setting(study: Study, values: Sequence[float], target: Target, *, seed: int = 0) -> Calibration:
    """Choose the setting that meets a target.

    Args:
        study: Results of the policy at each value, and of both models alone.
        values: Value of the setting for each of the study's settings.
        target: The target.
        seed: Seed of the resampling.

    Raises:
        TargetOutOfReach: None of the settings meets it; the message has the nearest one.
    """
    resampling = Resampling(study, seed=seed)
    if not any(trial.large_tokens for trial in study.large.trials):
        raise TargetOutOfReach("The large model alone wrote no token, so shares of its tokens are undefined.")
    shares, accuracies = _curves(study, resampling)
    chosen, *resampled = target.choose(shares, accuracies)
    if chosen == NONE:
        raise TargetOutOfReach(_out_of_reach(target, shares[0], accuracies[0]))
    settings = np.sort([values[each] for each in resampled if each != NONE])
    return Calibration(
        setting=Estimate(value=values[chosen], interval=_interval(settings if len(settings) else [values[chosen]])),
        large_share=_estimate(shares[:, chosen]),
        accuracy=_estimate(accuracies[:, chosen]),
        reached=float(target.is_met(shares[1:, chosen], accuracies[1:, chosen]).mean()),
    )


def _curves(study: Study, resampling: Resampling) -> tuple[Floats, Floats]:
    """Return shares and accuracies of shape (resamples + 1, settings); the first row is that of the study itself."""
    shares = np.column_stack([resampling.share(setting).samples for setting in study.settings])
    return shares, np.column_stack([resampling.accuracy(setting).samples for setting in study.settings])


def _estimate(samples: Floats) -> Estimate:
    return Estimate(value=float(samples[0]), interval=_interval(np.sort(samples[1:][~np.isnan(samples[1:])])))


def _interval(ordered: Sequence[float] | Floats) -> Interval:
    outside = (1 - CONFIDENCE) / 2
    high = min(len(ordered) - 1, int((1 - outside) * len(ordered)))
    return Interval(float(ordered[int(outside * len(ordered))]), float(ordered[high]))


def _out_of_reach(target: Target, shares: Floats, accuracies: Floats) -> str:
    if target.of == "large_share":
        return (
            f"None of the {len(shares)} settings tried keeps within {target.value:.1%} of the large model's tokens;"
            f" the cheapest spends {shares.min():.1%}."
        )
    return (
        f"None of the {len(shares)} settings tried reaches an accuracy of {target.value:.1%}; the best reaches"
        f" {accuracies.max():.1%}."
    )
