"""Results of a policy on a set of problems, and the metrics of the method that are computed from them (section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one problem under one policy."""

    is_solved: bool
    large_tokens: int
    """Decoded by the large model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baselines:
    """The results that every policy is compared with; problem i is the same problem in each sequence."""

    small: Sequence[Result]
    large: Sequence[Result]

    def share(self, results: Sequence[Result]) -> float:
        """Compute c, the large model's tokens as a share of those that it needs alone.

        Raises:
            ValueError: It needed none alone.
        """
        if not (alone := mean_large_tokens(self.large)):
            raise ValueError("the large model alone spent no tokens, so there is nothing to compare with")
        return mean_large_tokens(results) / alone

    def gap_recovered(self, results: Sequence[Result]) -> float:
        """Compute PGR, the part of the gap between the small and the large model's accuracy that is closed.

        Raises:
            ValueError: There is no gap.
        """
        low, high = accuracy(self.small), accuracy(self.large)
        if high <= low:
            raise ValueError("the large model solves no more than the small one, so there is no gap to close")
        return (accuracy(results) - low) / (high - low)

    def point(self, results: Sequence[Result]) -> Point:
        """Compute where a policy lies on the plane of cost and quality."""
        return Point(self.share(results), self.gap_recovered(results))

    def benefit(self, results: Sequence[Result]) -> float:
        """Compute IBC, accuracy gained per large token.

        Raises:
            ValueError: No large token was spent.
        """
        if not (spent := mean_large_tokens(results)):
            raise ValueError("no large token was spent, so there is no benefit per token")
        return (accuracy(results) - accuracy(self.small)) / spent

    def relative_benefit(self, results: Sequence[Result]) -> float:
        """Compute the relative gain in IBC over the large model alone: PGR / c - 1."""
        return self.benefit(results) / self.benefit(self.large) - 1


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """A policy on the plane of cost and quality: small-only is (0, 0), large-only (1, 1)."""

    share: float
    recovered: float


def accuracy(results: Sequence[Result]) -> float:
    """Compute the share of problems that were solved."""
    return sum(result.is_solved for result in results) / len(results)


def mean_large_tokens(results: Sequence[Result]) -> float:
    """Compute C, the mean number of large tokens a problem."""
    return sum(result.large_tokens for result in results) / len(results)


def envelope(points: Sequence[Point]) -> list[Point]:
    """Compute the upper envelope of points and both baselines: those that no cheaper point equals, by rising cost."""
    kept: list[Point] = []
    for point in sorted((*points, Point(0.0, 0.0), Point(1.0, 1.0)), key=lambda point: (point.share, -point.recovered)):
        if not kept or point.recovered > kept[-1].recovered:
            kept.append(point)
    return kept


def cost_to_recover(points: Sequence[Point], target: float) -> float:
    """Compute CPT, the least share of large tokens that recovers a part of the gap, linear between policies.

    Args:
        points: Where the policies lie.
        target: The part of the gap to recover, in [0, 1].
    """
    line = envelope(points)
    for low, high in pairwise(line):
        if low.recovered >= target:
            break
        if high.recovered >= target:
            rise = (target - low.recovered) / (high.recovered - low.recovered)
            return low.share + rise * (high.share - low.share)
    return line[0].share


def area_recovered(points: Sequence[Point]) -> float:
    """Compute APGR, the mean of the recovered part over all shares of large tokens in [0, 1]."""
    line = [point for point in envelope(points) if point.share <= 1]
    area = sum((high.share - low.share) * (low.recovered + high.recovered) / 2 for low, high in pairwise(line))
    return area + (1 - line[-1].share) * line[-1].recovered


def area_under_curve(above: Sequence[float], below: Sequence[float]) -> float:
    """Compute AUC, the chance that one of `above` is greater than one of `below`, a tie counting half.

    Raises:
        ValueError: One of the two is empty.
    """
    if not above or not below:
        raise ValueError("an area under the curve needs numbers of both kinds")
    order = sorted([(value, 0) for value in above] + [(value, 1) for value in below])
    wins, lesser, index = 0.0, 0, 0
    while index < len(order):
        ties = [kind for value, kind in order[index : index + 1]]
        while index + len(ties) < len(order) and order[index + len(ties)][0] == order[index][0]:
            ties.append(order[index + len(ties)][1])
        tied_below = sum(ties)
        wins += (len(ties) - tied_below) * (lesser + tied_below / 2)
        lesser += tied_below
        index += len(ties)
    return wins / (len(above) * len(below))
