"""What a run found: every metric of every policy, with intervals, as values for JSON and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from evaluation.metrics import percentile
from evaluation.paired_test import sign_flip_test
from evaluation.prices import Prices
from evaluation.resampling import Resampling, Statistic
from evaluation.runs.plan import Plan
from evaluation.runs.rows import TrialRow
from evaluation.study import Setting, Study, Trial
from shared.domain.roles import WorkerRole

PERCENTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
TARGETS: Final = {"cpt50": 0.5, "cpt80": 0.8, "cpt95": 0.95}


class Results:
    """The results of a run as a study, with its metrics."""

    def __init__(self, plan: Plan, rows: Sequence[TrialRow], prices: Prices | None = None) -> None:
        """Build the study.

        Args:
            plan: The plan of the run.
            rows: Its results: by policy, problem and seed.
            prices: Prices of tokens, if they are known.
        """
        size = plan.problems * plan.seeds
        self._rows = {label: rows[place * size : (place + 1) * size] for place, label in enumerate(plan.policies)}
        self._settings = {
            each.label: Setting(
                policy=each.curve, label=each.setting, trials=[row.trial for row in self._rows[each.label]]
            )
            for each in plan.candidates
        }
        small, large, *others = self._settings.values()
        self.study = Study(
            title=_title(plan, rows),
            problems=plan.problems,
            seeds=plan.seeds,
            small=small,
            large=large,
            settings=others,
            prices=prices,
        )
        self._resampling = Resampling(self.study)

    def summary(self) -> dict[str, Any]:
        """Return all metrics as JSON."""
        return {
            "title": self.study.title,
            "problems": self.study.problems,
            "seeds": self.study.seeds,
            "models": {role: sorted(names) for role, names in _models(self._all_rows).items()},
            "policies": [self._policy(label) for label in self._settings],
            "without_solutions": self._without_solutions,
            "curves": [self._curve(name) for name in self._curves],
        }

    def difference(self, first: str, second: str) -> dict[str, Any]:
        """Compare two policies on the same problems and seeds.

        Args:
            first: Label of a policy.
            second: Label of the policy whose metrics are subtracted.
        """
        one, other = self._settings[first], self._settings[second]
        metrics = self._metrics(one)
        solved = [(a.is_solved, b.is_solved) for a, b in zip(one.trials, other.trials, strict=True)]
        return {
            "first": first,
            "second": second,
            **{name: show(metrics[name].minus(each)) for name, each in self._metrics(other).items()},
            "p_value": sign_flip_test(self._solved_differences(one, other)),
            "only_first_solved": sum(a and not b for a, b in solved),
            "only_second_solved": sum(b and not a for a, b in solved),
        }

    def pairs(self, first: str, second: str) -> list[tuple[TrialRow, TrialRow]]:
        """Return the results of two policies, problem by problem and seed by seed."""
        return list(zip(self._rows[first], self._rows[second], strict=True))

    @property
    def _all_rows(self) -> list[TrialRow]:
        return [row for rows in self._rows.values() for row in rows]

    @property
    def _without_solutions(self) -> list[str]:
        return [label for label, rows in self._rows.items() if all(row.ending is not None for row in rows)]

    @property
    def _curves(self) -> list[str]:
        """Names of the curves, but those with a setting without solutions, whose accuracy of 0 would bend them."""
        spoilt = {self._settings[label].policy for label in self._without_solutions}
        return [name for name in dict.fromkeys(each.policy for each in self.study.settings) if name not in spoilt]

    def _policy(self, label: str) -> dict[str, Any]:
        setting, rows = self._settings[label], self._rows[label]
        latencies = [trial.latency_s for trial in setting.trials if trial.latency_s is not None]
        return {
            "policy": label,
            "versions": sorted({row.version for row in rows if row.version is not None}),
            **{name: show(each) for name, each in self._metrics(setting).items()},
            "latency_s": {name: percentile(latencies, part) for name, part in PERCENTILES.items() if latencies},
            "verdicts": Counter(str(row.verdict) for row in rows if row.verdict is not None),
            "endings": Counter(row.ending for row in rows if row.ending is not None),
            "p_value_against_large": sign_flip_test(self._solved_differences(setting, self.study.large)),
        }

    def _curve(self, policy: str) -> dict[str, Any]:
        metrics = {name: self._resampling.cost_to_recover(policy, target) for name, target in TARGETS.items()}
        metrics["apgr"] = self._resampling.area_recovered(policy)
        settings = [label for label, each in self._settings.items() if each.policy == policy]
        return {"policy": policy, "settings": settings, **{name: show(each) for name, each in metrics.items()}}

    def _metrics(self, setting: Setting) -> dict[str, Statistic]:
        found = {
            "accuracy": self._resampling.accuracy(setting),
            "large_tokens": self._resampling.mean(setting, lambda trial: trial.large_tokens),
            "share": self._resampling.share(setting),
            "pgr": self._resampling.recovered(setting),
            "dibc": self._resampling.relative_benefit(setting),
            "escalation_rate": self._resampling.escalation_rate(setting),
        }
        if self.study.prices is not None:
            found["cost"] = self._resampling.mean(setting, self.study.cost)
        return found

    def _solved_differences(self, one: Setting, other: Setting) -> list[int]:
        """Count for each problem the seeds with which one policy solved it, less those of the other."""
        seeds = self.study.seeds
        ours, theirs = _solved(one.trials, seeds), _solved(other.trials, seeds)
        return [mine - yours for mine, yours in zip(ours, theirs, strict=True)]


def show(statistic: Statistic) -> dict[str, float | None]:
    """Return a metric for JSON: value and interval, null where they are undefined, and its undefined resamples."""
    interval = statistic.interval
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return {"value": statistic.value, "low": low, "high": high, "undefined": statistic.undefined}


def _solved(trials: Sequence[Trial], seeds: int) -> list[int]:
    return [sum(trial.is_solved for trial in trials[start : start + seeds]) for start in range(0, len(trials), seeds)]


def _models(rows: Sequence[TrialRow]) -> Mapping[WorkerRole, set[str]]:
    found: dict[WorkerRole, set[str]] = {}
    for row in rows:
        for role, name in row.models.items():
            found.setdefault(role, set()).add(name)
    return found


def _title(plan: Plan, rows: Sequence[TrialRow]) -> str:
    models = _models(rows)
    writers = [" and ".join(sorted(models[role])) for role in (WorkerRole.SMALL, WorkerRole.LARGE) if role in models]
    seeds = f"{plan.seeds} seed{'s' if plan.seeds > 1 else ''}"
    return f"{plan.file}: {plan.problems} problems, {seeds}, {' with '.join(writers)}".removesuffix(", ")
