"""Problems on cached branches end as they do in the simulated service, with the same ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import pytest

from evaluation.offline import Models
from evaluation.study import Trial
from evaluation.true_cost import Computed
from recipe.problems.drawing import Split, draw
from recipe.settings import CURVES, choice, curve, label_of
from recipe.shards import artefacts_for
from recipe.studies import ORACLE, Trials, study
from recipe.tables import Results, curves_table, differences_table
from shared.domain.ledger import Ledger
from shared.domain.options import Sampling
from shared.policies.cascade import Cascade
from shared.policies.confidence import Confidence
from shared.policies.policy import FittedPolicy, Policy
from shared.policies.pomdp.policy import Pomdp
from shared.policies.registry import build_policy
from shared.policies.threshold import Threshold
from shared.settings import MODELS
from tests.unit.simulation.conftest import quiet  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def trials() -> Iterator[Trials]:
    with Models(MODELS / "small", MODELS / "large", MODELS / "prm") as models:
        yield Trials(list(islice(draw(Split.TEST), 4)), [Sampling(seed=0), Sampling(seed=1)], models)


def without_scores(trials: Sequence[Trial]) -> list[Trial]:
    """Leave out the scores: batches of different sizes round them differently."""
    return [replace(trial, decisions=[replace(each, score=None) for each in trial.decisions]) for trial in trials]


@pytest.mark.parametrize("policy", [Threshold(threshold=0.5), Confidence(threshold=0.99), Pomdp()])
def test_a_policy_ends_with_the_same_result_and_ledger(trials: Trials, policy: Policy) -> None:
    if isinstance(policy, FittedPolicy):
        policy = policy.fitted(artefacts_for(trials.models)[policy.name])
    assert without_scores(trials.solve(policy, "").trials) == without_scores(trials.simulate(policy))


def test_a_cascade_pays_for_both_solutions(trials: Trials) -> None:
    """The order in which the drafts are scored, and so what the PRM's cache saves, is a matter of luck."""

    def without_luck(solved: Sequence[Trial]) -> list[Trial]:
        ledgers = [replace(trial.ledger, prm_tokens=0, prm_calls=0) for trial in solved]
        pairs = zip(without_scores(solved), ledgers, strict=True)
        return [replace(trial, ledger=ledger) for trial, ledger in pairs]

    policy = Cascade(threshold=0.5)
    solved = trials.solve(policy, "").trials
    assert without_luck(solved) == without_luck(trials.simulate(policy))
    assert any(trial.large_tokens for trial in solved)
    assert not all(trial.large_tokens for trial in solved)


def test_results_of_equal_paths_are_made_once(trials: Trials) -> None:
    first, second = (trials.solve(Threshold(threshold=each), "").trials for each in (0.4, 0.5))
    assert all(one is other for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("name", CURVES)
def test_each_setting_can_be_submitted_by_its_label(name: str) -> None:
    """A label rounds the value, so the test compares what it says with what was measured."""
    parameter, values = CURVES[name]
    for value in values:
        chosen = choice(label_of(name, value))
        assert build_policy(chosen["name"], chosen["parameters"]) == build_policy(name, {parameter: value})
    assert choice("large-only") == {"name": "large-only", "parameters": {}}


def test_tables_and_summary_show_every_policy(trials: Trials) -> None:
    settings = [setting for name in ("threshold", "cascade") for setting in curve(name, {})]
    solved = study(trials, settings, title="", prices=Computed(small=1, prm=0, large=7))
    results = Results(solved, {})
    assert results.best == "threshold"
    assert results.served == ["threshold", "cascade"]
    lines = [*curves_table(results)]
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| threshold", f"| {ORACLE}", "| cascade"]
    assert lines[-1].startswith("| | | | large-only | 100.0%")
    assert lines[-1].endswith("| 100% |")
    assert len([*differences_table(results)]) == 2 + 2


def test_an_undefined_metric_has_no_interval(trials: Trials) -> None:
    unsolved = Trial(is_solved=False, large_tokens=1, ledger=Ledger(large_out=1))
    solved = study(trials, [*curve("threshold", {})], title="", prices=Computed(small=1, prm=1, large=1))
    failed = replace(
        solved,
        small=replace(solved.small, trials=[unsolved] * len(solved.small.trials)),
        large=replace(solved.large, trials=[unsolved] * len(solved.large.trials)),
    )
    assert "| threshold | - | - |" in [*curves_table(Results(failed, {}))][2]
