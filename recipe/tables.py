"""Tables and figures of the studies of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from statistics import fmean
from typing import Any, Final

import numpy as np

from evaluation.curves import Floats
from evaluation.metrics import accuracy
from evaluation.resampling import Resampling, Statistic
from evaluation.study import Setting, Study
from recipe.measuring import Scored
from recipe.studies import ORACLE

TARGET: Final = 0.95
"""Part of the gap between the two models to recover."""

BASELINES: Final = ("random", "cascade", ORACLE)
"""Policies that are no candidates for the best one."""

REFERENCE: Final = "threshold"
"""Policy that the others are compared with."""


class Results:
    """A study with its intervals."""

    def __init__(self, study: Study, scored: Mapping[str, Scored]) -> None:
        """Take a study.

        Args:
            study: The study.
            scored: Scores of the small model's steps, by how they were drawn: `greedy` and `sampled`.
        """
        self.study = study
        self.scored = scored
        self.resampling = Resampling(study)

    @cached_property
    def policies(self) -> list[str]:
        """Names of the policies, the best first at the target."""
        names = dict.fromkeys(setting.policy for setting in self.study.settings)
        return sorted(names, key=lambda name: (name in BASELINES, self.cpt[name].value or 0.0, name))

    @cached_property
    def cpt(self) -> dict[str, Statistic]:
        """CPT at the target, by policy."""
        return {name: self.resampling.cost_to_recover(name, TARGET) for name in self._names}

    @cached_property
    def apgr(self) -> dict[str, Statistic]:
        """APGR, by policy."""
        return {name: self.resampling.area_recovered(name) for name in self._names}

    @property
    def others(self) -> list[str]:
        """Names of the policies that are compared with the reference policy, the best first."""
        return [name for name in self.policies if name != REFERENCE]

    def differences(self, policy: str) -> tuple[Statistic, Statistic]:
        """Compute the paired differences of CPT at the target, and of APGR, to the reference policy."""
        return self.cpt[policy].minus(self.cpt[REFERENCE]), self.apgr[policy].minus(self.apgr[REFERENCE])

    @property
    def served(self) -> list[str]:
        """Policies that a service has: all but the oracle."""
        return [name for name in self.policies if name != ORACLE]

    @property
    def best(self) -> str:
        """The policy with the least CPT at the target, on the problems of the study itself."""
        return self.policies[0]

    def relative_benefit(self, policy: str) -> Statistic:
        """Compute dIBC of a policy where it recovers the target: target / CPT - 1."""
        return Statistic(ratio(TARGET, self.cpt[policy].samples) - 1)

    def operating(self, policy: str) -> Setting:
        """Choose the cheapest setting of a policy that recovers the target; the one that recovers most if none does."""
        settings = [each for each in self.study.settings if each.policy == policy]
        good = [each for each in settings if (self.resampling.recovered(each).value or 0.0) >= TARGET]
        if good:
            return min(good, key=lambda each: self.resampling.share(each).value or 0.0)
        return max(settings, key=lambda each: self.resampling.recovered(each).value or 0.0)

    def true_share(self, setting: Setting) -> float:
        """Compute the true cost of a setting as a share of that of large-only."""
        own, alone = (fmean(self.study.cost(trial) for trial in each.trials) for each in (setting, self.study.large))
        return own / alone

    @property
    def _names(self) -> list[str]:
        return list(dict.fromkeys(setting.policy for setting in self.study.settings))


def curves_table(results: Results) -> Iterator[str]:
    """Yield the lines of a Markdown table of the policies: their whole curves, and each at one setting."""
    yield "| policy | CPT95 | APGR | setting | accuracy | large tokens | true cost |"
    yield "|---|---|---|---|---|---|---|"
    for name in results.policies:
        setting = results.operating(name)
        yield f"| {name} | {percent(results.cpt[name])} | {number(results.apgr[name])} |{_cells(results, setting)}"
    for setting in (results.study.small, results.study.large):
        yield f"| | | |{_cells(results, setting)}"


def _cells(results: Results, setting: Setting) -> str:
    accurate, share = results.resampling.accuracy(setting), results.resampling.share(setting)
    return f" {setting.label} | {percent(accurate)} | {percent(share)} | {results.true_share(setting):.0%} |"


def differences_table(results: Results) -> Iterator[str]:
    """Yield the lines of a Markdown table of paired differences to the reference policy."""
    yield f"| policy | CPT95 - {REFERENCE}'s | APGR - {REFERENCE}'s |"
    yield "|---|---|---|"
    for name in results.others:
        cost, area = results.differences(name)
        yield f"| {name} | {percent(cost, sign='+')} | {number(area, sign='+')} |"


def prms_table(by_prm: Mapping[str, Results]) -> Iterator[str]:
    """Yield the lines of a Markdown table of how each PRM judges the small model's steps."""
    yield "| PRM | AUC, greedy | AUC, sampled | first errors missed | right steps doubted | later steps forgiven |"
    yield "|---|---|---|---|---|---|"
    for name, results in by_prm.items():
        greedy, sampled = results.scored["greedy"], results.scored["sampled"]
        yield (
            f"| {name} | {_auc(greedy)} | {_auc(sampled)} | {sampled.missed:.1%} | {sampled.doubted:.1%}"
            f" | {sampled.forgiven:.1%} |"
        )


def _auc(scored: Scored) -> str:
    return "-" if scored.auc is None else f"{scored.auc:.4f}"


def summary(test: Results, transfer: Results) -> dict[str, Any]:
    """Summarise a PRM: its policies on test problems, and their APGR on transfer problems."""
    cascade = test.relative_benefit("cascade").samples
    # Where the cascade gains nothing per token, no policy gains a number of times more.
    over = Statistic(ratio(test.relative_benefit(test.best).samples, np.where(cascade > 0, cascade, 0.0)))
    differences = {name: test.differences(name) for name in test.others}
    return {
        "prm_auc": None if (auc := test.scored["sampled"].auc) is None else round(auc, 4),
        "small_accuracy": round(accuracy(test.study.small.trials), 4),
        "large_accuracy": round(accuracy(test.study.large.trials), 4),
        "cpt95": {name: figures(test.cpt[name]) for name in test.policies},
        "apgr": {name: figures(test.apgr[name]) for name in test.policies},
        f"cpt95_minus_{REFERENCE}": {name: figures(cost) for name, (cost, _) in differences.items()},
        f"apgr_minus_{REFERENCE}": {name: figures(area) for name, (_, area) in differences.items()},
        "dibc_over_cascade": figures(over),
        "transfer_apgr": {name: figures(transfer.apgr[name]) for name in test.policies},
    }


def ratio(above: float | Floats, below: Floats) -> Floats:
    """Divide; the result is NaN where the divisor is 0."""
    return np.divide(above, below, out=np.full_like(below, np.nan), where=below != 0)


def figures(statistic: Statistic) -> dict[str, float | None]:
    """Return a metric with its interval; null where it is undefined."""
    value, interval = statistic.value, statistic.interval
    return {
        "value": None if value is None else round(value, 4),
        "low": None if interval is None else round(interval.low, 4),
        "high": None if interval is None else round(interval.high, 4),
    }


def percent(statistic: Statistic, *, sign: str = "") -> str:
    """Format a metric with its interval, in per cent."""
    return _formatted(statistic, f"{sign}.1%")


def number(statistic: Statistic, *, sign: str = "") -> str:
    """Format a metric with its interval."""
    return _formatted(statistic, f"{sign}.3f")


def _formatted(statistic: Statistic, form: str) -> str:
    value, interval = statistic.value, statistic.interval
    if value is None:
        return "-"
    if interval is None:
        return f"{value:{form}} (undefined in {statistic.undefined:.0%} of resamples)"
    return f"{value:{form}} ({interval.low:{form}} to {interval.high:{form}})"
