"""A study: the same problems, with the same seeds, solved by several policies. Tables, pictures and reports show it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from evaluation.metrics import Result
from evaluation.prices import Prices
from evaluation.true_cost import Computed
from shared.domain.ledger import Ledger
from shared.domain.roles import WorkerRole


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A decision on a draft, as far as pictures show it."""

    step: int
    escalates: bool
    score: float | None
    """PRM score of the draft; `None` if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Time that a problem spent with a role."""

    waited_s: float
    """From the publication of its commands to their start."""
    worked_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial(Result):
    """One problem, solved once with one seed by one policy."""

    ledger: Ledger
    decisions: Sequence[Decided] = ()
    latency_s: float | None = None
    """From its start, when the service admits it, to its end; `None` in a simulation."""
    spent: Mapping[WorkerRole, Spent] = field(default_factory=dict)
    """By role; empty in a simulation."""

    @property
    def computed(self) -> Computed:
        """What its models computed."""
        return Computed.of(self.ledger)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Results of a policy at one of its settings."""

    policy: str
    """Name of the policy; its settings form one curve."""
    label: str
    """What distinguishes this setting, such as `threshold 0.35`."""
    trials: Sequence[Trial]
    """By problem, then by seed: trial `p * seeds + s` is problem p with seed s, as in all settings of the study."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A step with its PRM score and whether it was right."""

    score: float
    is_right: bool
    problem: int | None = None
    """Index of its problem; intervals take the steps of a problem together. `None` if it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """The same problems and seeds, solved by several policies."""

    title: str
    """What was solved with which models, in a few words."""
    problems: int
    seeds: int
    """Number of times that each policy solves each problem."""
    small: Setting
    """Small-only."""
    large: Setting
    """Large-only."""
    settings: Sequence[Setting]
    """All others: those that route steps, and baselines that route whole problems."""
    prices: Computed | Prices | None
    """True cost of a token by model, or by model and kind; `None` if it is not known."""
    judged: Sequence[Judged] = ()
    """Steps with known labels, if there are any."""

    @classmethod
    def joined(cls, parts: Sequence[Study]) -> Study:
        """Join studies of different problems, which have the same seeds, settings and prices."""

        def together(settings: Sequence[Setting]) -> Setting:
            return replace(settings[0], trials=[trial for setting in settings for trial in setting.trials])

        return replace(
            parts[0],
            problems=sum(part.problems for part in parts),
            small=together([part.small for part in parts]),
            large=together([part.large for part in parts]),
            settings=[together(settings) for settings in zip(*(part.settings for part in parts), strict=True)],
            judged=[each for part in parts for each in part.judged],
        )

    def cost(self, trial: Trial) -> float:
        """Compute the true cost of a trial; NaN if it is not known."""
        if self.prices is None:
            return math.nan
        return self.prices.cost(trial.ledger)

    def __post_init__(self) -> None:
        """Check that all settings have one trial for each problem and seed."""
        for setting in (self.small, self.large, *self.settings):
            if len(setting.trials) != self.problems * self.seeds:
                raise ValueError(
                    f"{setting.label}: {len(setting.trials)} trials of {self.problems} problems x {self.seeds} seeds"
                )
