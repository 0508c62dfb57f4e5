"""The numbers of a study that tables and pictures show, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Final

import numpy as np

from evaluation.metrics import area_under_curve
from evaluation.resampling import Resampling, Statistic
from evaluation.score_calibration import Labelled
from evaluation.study import Judged, Setting, Study
from shared.policies.cascade import Cascade

PARITY: Final = 0.95
"""PGR that the shown setting of a policy reaches, if one does."""

PARITY_TEXT: Final = f"{100 * PARITY:.0f} %"

QUERY_LEVEL: Final = frozenset({Cascade.name})
"""Policies that route whole solutions."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A setting with its metrics."""

    setting: Setting
    accuracy: Statistic
    share: Statistic
    """Large tokens as a share of those of large-only."""
    cost: Statistic
    """True cost as a share of that of large-only."""
    recovered: Statistic
    """PGR."""

    def mean(self, name: str) -> float:
        """Compute the mean of a column of the ledger over the trials."""
        return fmean(getattr(trial.ledger, name) for trial in self.setting.trials)


class Measures:
    """A study with the metrics of its settings; each is computed once."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._resampling = Resampling(study)
        self._large_cost = self._cost(study.large)
        self.small, self.large = self._measured(study.small), self._measured(study.large)
        self._by_policy: dict[str, list[Measured]] = {}
        for setting in study.settings:
            self._by_policy.setdefault(setting.policy, []).append(self._measured(setting))

    @property
    def policies(self) -> Sequence[str]:
        """Names of the policies besides the baselines, in the study's order."""
        return list(self._by_policy)

    def settings(self, policy: str) -> Sequence[Measured]:
        """Return the settings of a policy."""
        return self._by_policy[policy]

    @cached_property
    def shown(self) -> dict[str, Measured]:
        """The setting of each policy that stands for it where only one is shown.

        It has the least share of large tokens among the settings with a PGR of at least `PARITY`; if there is none, it
        is the one with the best accuracy.
        """
        return {policy: _shown(settings) for policy, settings in self._by_policy.items()}

    def cost_to_recover(self, policy: str) -> Statistic:
        """Compute CPT of a policy at `PARITY`."""
        return self._resampling.cost_to_recover(policy, PARITY)

    def area_recovered(self, policy: str) -> Statistic:
        """Compute APGR of a policy."""
        return self._resampling.area_recovered(policy)

    @cached_property
    def labelled(self) -> Labelled | None:
        """The judged steps with their scores; `None` if there are none."""
        judged = self.study.judged
        if not judged:
            return None
        unknown = max((each.problem or 0 for each in judged), default=0) + 1
        places = [unknown + place if each.problem is None else each.problem for place, each in enumerate(judged)]
        return Labelled(
            scores=np.array([each.score for each in judged], dtype=np.float64),
            labels=np.array([each.is_right for each in judged], dtype=np.float64),
            problems=np.array(places, dtype=np.int64),
        )

    @cached_property
    def separation(self) -> float | None:
        """AUC of the PRM; `None` without steps of both kinds."""
        right, wrong = scores_of(self.study.judged, is_right=True), scores_of(self.study.judged, is_right=False)
        return area_under_curve(right, wrong) if right and wrong else None

    def _measured(self, setting: Setting) -> Measured:
        cost, alone = self._cost(setting).samples, self._large_cost.samples
        return Measured(
            setting=setting,
            accuracy=self._resampling.accuracy(setting),
            share=self._resampling.share(setting),
            cost=Statistic(np.divide(cost, alone, out=np.full_like(cost, np.nan), where=alone > 0)),
            recovered=self._resampling.recovered(setting),
        )

    def _cost(self, setting: Setting) -> Statistic:
        return self._resampling.mean(setting, self.study.cost)


def scores_of(judged: Sequence[Judged], *, is_right: bool) -> list[float]:
    """Return the scores of right or of wrong steps."""
    return [each.score for each in judged if each.is_right == is_right]


def _shown(settings: Sequence[Measured]) -> Measured:
    def known(statistic: Statistic) -> float:
        value = statistic.value
        return -np.inf if value is None else value

    reaching = [each for each in settings if known(each.recovered) >= PARITY]
    if reaching:
        return min(reaching, key=lambda each: (known(each.share), known(each.cost)))
    return max(settings, key=lambda each: (known(each.accuracy), -known(each.share)))
