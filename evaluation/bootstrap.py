"""Bootstrap confidence intervals over problems, paired: each resample draws the same problems for all policies."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluation.metrics import Result

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Return whether a value lies within the interval."""
        return self.low <= value <= self.high


def interval(
    *columns: Sequence[Result], statistic: Callable[..., float], seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Compute the interval of a statistic of the results of one or more policies.

    Args:
        columns: Results of each policy; problem i is the same problem in each.
        statistic: Takes one sequence of results per column. Resamples for which it raises `ValueError` are skipped.
        seed: Seed of the resampling.
        resamples: Number of resamples.

    Raises:
        ValueError: The columns are empty or of different lengths, or no resample allows the statistic.
    """
    problems = list(zip(*columns, strict=True))
    if not problems:
        raise ValueError("there are no results to resample")
    rng = random.Random(seed)  # noqa: S311 - not a secret
    values = []
    for _ in range(resamples):
        drawn = rng.choices(problems, k=len(problems))
        try:
            values.append(statistic(*zip(*drawn, strict=True)))
        except ValueError:
            continue
    if not values:
        raise ValueError("the statistic cannot be computed for any resample")
    values.sort()
    outside = (1 - CONFIDENCE) / 2
    return Interval(values[int(outside * len(values))], values[min(len(values) - 1, int((1 - outside) * len(values)))])
