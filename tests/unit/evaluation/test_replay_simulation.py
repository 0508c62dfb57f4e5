"""Simulated figures of a replay: those of the policy's own run, with the models of the record alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np
import pytest

from evaluation.in_process import OtherModels
from evaluation.replay import replay
from evaluation.replay_figures import Label, figures
from evaluation.replay_simulation import simulate as solve_again
from shared.domain.options import Sampling
from shared.domain.roles import WorkerRole
from tests.unit.evaluation.replaying import LIMITS, MODELS, PROBLEMS, loaded, routing, simulate, threshold

SUBMITTED = [
    {
        "question": f"What is {index}?",
        "reference": "7",
        "erased_at": "2026-01-01T00:00:00Z" if index == PROBLEMS - 1 else None,
        "lookahead": "unlimited" if index else 2,
        "limits": asdict(LIMITS),
        "sampling": asdict(Sampling()),
        "max_attempts": 5,
    }
    for index in range(PROBLEMS)
]


def test_figures_that_the_record_does_not_allow_are_those_of_a_simulated_run() -> None:
    policy = threshold(0.7)
    parted = [replay(policy, each) for each in simulate(threshold(0.3))]
    own = simulate(policy)[: PROBLEMS - 1]
    solved = solve_again(policy, SUBMITTED, loaded(), recorded_by={WorkerRole.PRM: "prm-model"})
    found = figures(parted, solved)
    assert {name: each.label for name, each in found.items()} == {
        "agreement": Label.EXACT,
        "escalation_rate": Label.SIMULATED,
        "accuracy": Label.SIMULATED,
        "large_tokens": Label.SIMULATED,
    }
    assert found["large_tokens"].value == pytest.approx(np.mean([each.large_tokens for each in own]))
    assert found["large_tokens"].problems == PROBLEMS - 1
    followed = figures([replay(policy, replace(each, is_solved=True)) for each in simulate(policy)], solved)
    assert {each.label for each in followed.values()} == {Label.EXACT}


@pytest.mark.parametrize(
    ("recorded_by", "fitted_on", "complaint"),
    [
        ({WorkerRole.LARGE: "other"}, MODELS, "The record is of the large model other"),
        ({}, {**MODELS, "prm": "other"}, "The policy 'pomdp' was fitted on the prm model other"),
    ],
)
def test_other_models_than_those_of_the_settings_are_not_simulated(
    recorded_by: Mapping[WorkerRole, str], fitted_on: Mapping[str, str], complaint: str
) -> None:
    with pytest.raises(OtherModels, match=complaint):
        solve_again(routing("pomdp", {}, **fitted_on), SUBMITTED, loaded(), recorded_by=recorded_by)
