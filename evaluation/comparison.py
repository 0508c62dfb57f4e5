"""Compares the service's results with those of the simulation, problem by problem.

Both draw tokens from the same seeds, so only rounding in batches of different sizes may change a few solutions: zero
must lie within the intervals of both differences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from evaluation.bootstrap import Interval, interval
from evaluation.metrics import Baselines, Result, accuracy
from evaluation.study import Trial
from shared.errors import TrimError


class ServiceDiffers(TrimError):
    """The service's figures differ from the simulation's."""

    code = "service_differs"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Results of one policy by the service and offline; problem i is the same problem in each sequence."""

    service: Sequence[Trial]
    offline: Sequence[Trial]
    baselines: Baselines
    """Baselines of the simulation. All shares are relative to its large-only tokens, so the service's large-only run
    has a share too."""

    @cached_property
    def accuracy_difference(self) -> Interval:
        """Interval of the service's accuracy minus the offline accuracy."""
        return interval(self.service, self.offline, statistic=lambda a, b: accuracy(a) - accuracy(b))

    @cached_property
    def share_difference(self) -> Interval:
        """Interval of the service's share of large tokens minus the offline share."""
        return interval(self.service, self.offline, self.baselines.large, statistic=_share_difference)

    @property
    def same_verdicts(self) -> int:
        """Number of problems that both solved, or that neither did."""
        return sum(ours.is_solved == theirs.is_solved for ours, theirs in zip(self.service, self.offline, strict=True))

    @property
    def same_tokens(self) -> int:
        """Number of problems with the same number of large tokens in both."""
        pairs = zip(self.service, self.offline, strict=True)
        return sum(ours.large_tokens == theirs.large_tokens for ours, theirs in pairs)

    @property
    def is_same(self) -> bool:
        """Whether zero lies within both intervals."""
        return self.accuracy_difference.holds(0) and self.share_difference.holds(0)


def _share_difference(service: Sequence[Result], offline: Sequence[Result], alone: Sequence[Result]) -> float:
    baselines = Baselines(small=(), large=alone)
    return baselines.share(service) - baselines.share(offline)


def _mean_computed(results: Sequence[Trial]) -> float:
    """Compute the mean number of tokens that all models together computed for a problem."""
    return fmean(result.computed.total for result in results)


Comparisons = Mapping[str, Mapping[str, Comparison]]
"""By the PRM's name and the policy's setting."""


def table(comparisons: Comparisons) -> Iterator[str]:
    """Yield the lines of a Markdown table of comparisons."""
    yield (
        "| policy | accuracy | offline | difference, 95 % | large tokens | offline | difference, 95 %"
        " | zero within both | same verdicts | same tokens | computed tokens | offline |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for prm, policies in comparisons.items():
        for name, each in policies.items():
            accurate, spent, size = each.accuracy_difference, each.share_difference, len(each.service)
            yield (
                f"| {prm}, {name} | {accuracy(each.service):.1%} | {accuracy(each.offline):.1%}"
                f" | {accurate.low:+.1%} to {accurate.high:+.1%}"
                f" | {each.baselines.share(each.service):.1%} | {each.baselines.share(each.offline):.1%}"
                f" | {spent.low:+.2%} to {spent.high:+.2%} | {'yes' if each.is_same else 'no'}"
                f" | {each.same_verdicts} of {size} | {each.same_tokens} of {size}"
                f" | {_mean_computed(each.service):.1f} | {_mean_computed(each.offline):.1f} |"
            )


def check(comparisons: Comparisons) -> None:
    """Check that the service's results agree with the simulation's.

    Raises:
        ServiceDiffers: Zero lies outside of an interval; the message names the policies.
    """
    differing = [
        f"{name} with {prm}"
        for prm, policies in comparisons.items()
        for name, each in policies.items()
        if not each.is_same
    ]
    if differing:
        raise ServiceDiffers(
            f"The service's figures differ from the simulation's by more than their intervals ({', '.join(differing)});"
            " find the cause and measure again."
        )
