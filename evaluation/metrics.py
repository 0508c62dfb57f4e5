"""Results of a policy on a set of problems, and the metrics of the TRIM paper (section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Result of one problem with one policy."""

    is_solved: bool
    large_tokens: int
    """Tokens that the large model decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baselines:
    """Results of small-only and large-only; problem i is the same problem in each sequence."""

    small: Sequence[Result]
    large: Sequence[Result]

    def share(self, results: Sequence[Result]) -> float:
        """Compute c, the large tokens as a share of those of large-only.

        Raises:
            ValueError: Large-only spent no tokens.
        """
        if not (alone := mean_large_tokens(self.large)):
            raise ValueError("large-only spent no tokens, so shares are undefined")
        return mean_large_tokens(results) / alone

    def gap_recovered(self, results: Sequence[Result]) -> float:
        """Compute PGR, the share of the accuracy gap between small-only and large-only that is closed.

        Raises:
            ValueError: Large-only is not more accurate than small-only.
        """
        low, high = accuracy(self.small), accuracy(self.large)
        if high <= low:
            raise ValueError("large-only is not more accurate than small-only, so there is no gap to close")
        return (accuracy(results) - low) / (high - low)

    def point(self, results: Sequence[Result]) -> Point:
        """Compute the policy's point on the plane of cost and quality."""
        return Point(self.share(results), self.gap_recovered(results))

    def benefit(self, results: Sequence[Result]) -> float:
        """Compute IBC, accuracy gained per large token.

        Raises:
            ValueError: No large token was spent.
        """
        if not (spent := mean_large_tokens(results)):
            raise ValueError("no large token was spent, so the benefit per token is undefined")
        return (accuracy(results) - accuracy(self.small)) / spent

    def relative_benefit(self, results: Sequence[Result]) -> float:
        """Compute the relative gain in IBC over large-only: PGR / c - 1."""
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
    """Compute C, the mean number of large tokens per problem."""
    return sum(result.large_tokens for result in results) / len(results)


def envelope(points: Sequence[Point]) -> list[Point]:
    """Return the points, with both baselines, that recover more than every cheaper point, in order of cost."""
    kept: list[Point] = []
    for point in sorted((*points, Point(0.0, 0.0), Point(1.0, 1.0)), key=lambda point: (point.share, -point.recovered)):
        if not kept or point.recovered > kept[-1].recovered:
            kept.append(point)
    return kept


def cost_to_recover(points: Sequence[Point], target: float) -> float:
    """Compute CPT, the minimum share of large tokens that recovers a part of the gap; linear between policies.

    Args:
        points: Points of the policies.
        target: Part of the gap to recover, in [0, 1].
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
    """Compute APGR, the mean recovered part over all shares of large tokens in [0, 1]."""
    line = [point for point in envelope(points) if point.share <= 1]
    area = sum((high.share - low.share) * (low.recovered + high.recovered) / 2 for low, high in pairwise(line))
    return area + (1 - line[-1].share) * line[-1].recovered


def area_under_curve(above: Sequence[float], below: Sequence[float]) -> float:
    """Compute AUC, the probability that a value of `above` exceeds a value of `below`; a tie counts half.

    Raises:
        ValueError: One of them is empty.
    """
    if not above or not below:
        raise ValueError("the area under the curve needs values of both kinds")
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


def percentile(values: Sequence[float], part: float) -> float:
    """Compute a percentile, linear between neighbours.

    Args:
        values: The values, in any order.
        part: Part of the values below it, in [0, 1].

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("a percentile needs values")
    ordered = sorted(values)
    place = part * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
