"""Solves problems with a policy at many settings, for a calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.dials import DIALS, Dial, grid, levels_of
from evaluation.engines import LoadedEngines
from evaluation.in_process import Tell, solve
from evaluation.problem_sources import Problem
from evaluation.setting_choice import Target, neighbours
from evaluation.study import Setting, Study, Trial
from evaluation.true_cost import Computed
from shared.domain.decisions import DecidedBy
from shared.domain.options import Sampling
from shared.domain.verdict import Verdict
from shared.machine.state import State
from shared.policies.artefact import Artefact
from shared.policies.baselines import LargeOnly, SmallOnly
from shared.policies.policy import FittedPolicy, Policy
from shared.policies.registry import build_policy


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A policy whose setting is to be chosen."""

    name: str
    parameters: Mapping[str, Any]
    """Its other parameters."""
    artefact: Artefact | None = None
    """What it decides with, if it is fitted."""

    @property
    def dial(self) -> Dial:
        """The setting."""
        return DIALS[self.name]

    def build(self, **changes: Any) -> Policy:
        """Build the policy with other values of some parameters.

        Raises:
            BadParameters: A parameter is wrong.
            BadArtefact: The artefact is another policy's.
        """
        policy = build_policy(self.name, {**self.parameters, **changes})
        if isinstance(policy, FittedPolicy) and self.artefact is not None:
            return policy.fitted(self.artefact)
        return policy


class Curve:
    """Results of a policy at many settings, on the same problems as both models alone."""

    def __init__(
        self,
        candidate: Candidate,
        problems: Sequence[Problem],
        engines: LoadedEngines,
        *,
        sampling: Sampling,
        show: Callable[[str], Tell],
    ) -> None:
        """Solve the problems with each model alone, and find the settings that divide the policy's decisions.

        Args:
            candidate: The policy.
            problems: The problems.
            engines: The engines; they remember, so neighbouring settings share most steps.
            sampling: Sampling of tokens.
            show: Begins to show the progress of a part.

        Raises:
            EngineDead: An engine cannot go on.
        """
        self._candidate, self._problems, self._engines = candidate, problems, engines
        self._sampling, self._show = sampling, show
        self._settings: dict[float, Setting] = {}
        self._small = self._setting(SmallOnly(), "small model alone")
        self._large = self._setting(LargeOnly(), "large model alone")
        self._levels: Sequence[float] = ()
        if candidate.dial.probe is not None:
            probed = self._solve(candidate.build(**candidate.dial.probe), "looking for settings")
            records = (record for state in probed for record in state.decisions)
            by_policy = (each.decision for each in records if each.decided_by is DecidedBy.POLICY)
            self._levels = levels_of(candidate.dial, by_policy)

    @property
    def values(self) -> list[float]:
        """The values that were tried, in ascending order."""
        return sorted(self._settings)

    @property
    def study(self) -> Study:
        """The results, in the order of `values`."""
        return Study(
            title=f"{self._candidate.name} on {len(self._problems)} problems",
            problems=len(self._problems),
            seeds=1,
            small=self._small,
            large=self._large,
            settings=[self._settings[value] for value in self.values],
            prices=Computed(small=0.0, large=1.0, prm=0.0),
        )

    def approach(self, target: Target, *, points: int) -> None:
        """Try quantiles of all settings, and then quantiles of those around the one that meets the target best.

        If none meets it, the second round lies around the nearest one, and beyond it where that is the first or last.

        Args:
            target: The target.
            points: Number of quantiles in each round.

        Raises:
            EngineDead: An engine cannot go on.
        """
        self._try(grid(self._candidate.dial, self._levels, points=points))
        around = neighbours(self.study, self.values, target)
        self._try(grid(self._candidate.dial, self._levels, points=points, within=around))

    def _try(self, values: Sequence[float]) -> None:
        parameter = self._candidate.dial.parameter
        for value in values:
            if value not in self._settings:
                policy = self._candidate.build(**{parameter: value})
                self._settings[value] = self._setting(policy, f"{parameter} {value:.4g}")

    def _setting(self, policy: Policy, label: str) -> Setting:
        trials = [_trial(state) for state in self._solve(policy, label)]
        return Setting(policy=policy.name, label=label, trials=trials)

    def _solve(self, policy: Policy, label: str) -> list[State]:
        return solve(self._problems, policy, self._engines, sampling=self._sampling, tell=self._show(label))


def _trial(state: State) -> Trial:
    return Trial(is_solved=state.verdict is Verdict.CORRECT, large_tokens=state.ledger.large_out, ledger=state.ledger)
