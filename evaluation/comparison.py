"""Compares the service's results on a split with those of the simulation, problem by problem.

Both decode greedily, so only rounding in batches of different sizes may change a few solutions: zero must lie within
the intervals of both differences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from evaluation.bootstrap import Interval, interval
from evaluation.metrics import Baselines, Result, accuracy
from evaluation.true_cost import Computed
from shared.domain.ledger import Ledger
from shared.domain.verdict import Verdict
from shared.errors import TrimError


class ServiceDiffers(TrimError):
    """The service's figures differ from the simulation's."""

    code = "service_differs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered(Result):
    """A result with the problem's answer, and what its models computed."""

    answer: str | None
    computed: Computed

    @classmethod
    def of(cls, *, verdict: str | None, answer: str | None, ledger: Ledger) -> Answered:
        """Return the result of a problem that has ended."""
        is_solved = verdict == Verdict.CORRECT
        return cls(is_solved=is_solved, large_tokens=ledger.large_out, answer=answer, computed=Computed.of(ledger))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Results of one policy by the service and offline; problem i is the same problem in each sequence."""

    service: Sequence[Answered]
    offline: Sequence[Answered]
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
    def same_answers(self) -> int:
        """Number of problems with the same answer in both, or with none in both."""
        return sum(ours.answer == theirs.answer for ours, theirs in zip(self.service, self.offline, strict=True))

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


def _mean_computed(results: Sequence[Answered]) -> float:
    """Compute the mean number of tokens that all models together computed for a problem."""
    return fmean(result.computed.total for result in results)


Comparisons = Mapping[str, Mapping[str, Comparison]]
"""By the split's and the policy's name."""


def table(comparisons: Comparisons) -> Iterator[str]:
    """Yield the lines of a Markdown table of comparisons."""
    yield (
        "| policy | accuracy | offline | difference, 95 % | large tokens | offline | difference, 95 %"
        " | zero within both | same answers | same tokens | computed tokens | offline |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for split, policies in comparisons.items():
        for name, each in policies.items():
            accurate, spent, size = each.accuracy_difference, each.share_difference, len(each.service)
            yield (
                f"| {split}, {name} | {accuracy(each.service):.1%} | {accuracy(each.offline):.1%}"
                f" | {accurate.low:+.1%} to {accurate.high:+.1%}"
                f" | {each.baselines.share(each.service):.1%} | {each.baselines.share(each.offline):.1%}"
                f" | {spent.low:+.2%} to {spent.high:+.2%} | {'yes' if each.is_same else 'no'}"
                f" | {each.same_answers} of {size} | {each.same_tokens} of {size}"
                f" | {_mean_computed(each.service):.1f} | {_mean_computed(each.offline):.1f} |"
            )


def summary(*, small: Comparison, large: Comparison, parity: Comparison, prefix: str = "") -> dict[str, Any]:
    """Summarise the service's results on a split."""
    values = {
        "small_accuracy": accuracy(small.service),
        "large_accuracy": accuracy(large.service),
        "accuracy_at_parity": accuracy(parity.service),
        "large_share_small_alone": small.baselines.share(small.service),
        "large_share_large_alone": large.baselines.share(large.service),
        "large_share_at_parity": parity.baselines.share(parity.service),
    }
    return {f"{prefix}service_{name}": round(value, 4) for name, value in values.items()}


def check(comparisons: Comparisons) -> None:
    """Check that the service's results agree with the simulation's.

    Raises:
        ServiceDiffers: Zero lies outside of an interval; the message names the policies.
    """
    differing = [
        f"{name} on {split} problems"
        for split, policies in comparisons.items()
        for name, each in policies.items()
        if not each.is_same
    ]
    if differing:
        raise ServiceDiffers(
            f"The service's figures differ from the simulation's by more than their intervals ({', '.join(differing)});"
            " find the cause and measure again."
        )
