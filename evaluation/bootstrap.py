"""Intervals of confidence by resampling problems, paired: a resample takes the same problems of all policies."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluation.metrics import Result

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a statistic lies with 95 % confidence."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Tell whether a value lies within."""
        return self.low <= value <= self.high


def interval(
    *columns: Sequence[Result], statistic: Callable[..., float], seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Compute the interval of a statistic of one or more policies' results.

    Args:
        columns: Results of each policy; problem i is the same problem in each.
        statistic: Takes as many sequences of results as there are columns. Resamples that it raises `ValueError` for
            are left out.
        seed: Decides what is drawn.
        resamples: How many times to draw.

    Raises:
        ValueError: The columns are empty or of different lengths, or the statistic can never be computed.
    """
    problems = list(zip(*columns, strict=True))
    if not problems:
        raise ValueError("there are no results to resample")
    rng = random.Random(seed)  # noqa: S311 - no secret is drawn
    values = []
    for _ in range(resamples):
        drawn = rng.choices(problems, k=len(problems))
        try:
            values.append(statistic(*zip(*drawn, strict=True)))
        except ValueError:
            continue
    if not values:
        raise ValueError("the statistic cannot be computed of any resample")
    values.sort()
    outside = (1 - CONFIDENCE) / 2
    return Interval(values[int(outside * len(values))], values[min(len(values) - 1, int((1 - outside) * len(values)))])
