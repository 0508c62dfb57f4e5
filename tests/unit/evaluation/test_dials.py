"""The settings that are tried divide the decisions of a policy."""

from __future__ import annotations

import math

import pytest

from evaluation.dials import DIALS, LEAST, grid, levels_of
from shared.domain.decisions import Action, Decision
from shared.policies.policy import FittedPolicy
from shared.policies.registry import POLICIES, build_policy

SCORES = [0.1, 0.2, 0.2, 0.9]


def decisions(*values: float | None, compared_with: float | None = 0.5) -> list[Decision]:
    return [Decision(action=Action.ACCEPT, reason="x", value=each, compared_with=compared_with) for each in values]


def test_thresholds_are_quantiles_of_the_scores_between_the_ends() -> None:
    assert grid(DIALS["threshold"], SCORES, points=3) == pytest.approx([0.0, 0.175, 0.2, 0.375, 1.0])
    assert grid(DIALS["cascade"], [], points=3) == [0.0, 1.0]
    assert grid(DIALS["confidence"], SCORES, points=1) == [LEAST, 0.2, 1.0]


def test_a_second_round_lies_strictly_between_two_values() -> None:
    assert grid(DIALS["threshold"], SCORES, points=2, within=(0.1, 0.9)) == [0.2]
    assert grid(DIALS["threshold"], SCORES, points=2, within=(0.3, 0.4)) == []
    assert grid(DIALS["aggregate"], [], points=1, within=(0.2, 0.4)) == pytest.approx([0.3])


def test_shares_of_escalated_steps_are_spread_evenly_between_the_ends() -> None:
    assert grid(DIALS["sequence"], [], points=3) == [0.001, 0.25, 0.5, 0.75, 0.999]
    beyond = grid(DIALS["aggregate"], [], points=1, within=(-math.inf, 0.001))
    assert beyond == pytest.approx([0.0005]), "a second round goes beyond an end, to the limit of the parameter"


def test_decisions_without_a_number_divide_nothing() -> None:
    assert levels_of(DIALS["threshold"], decisions(0.3, None)) == [0.3]


def test_prices_are_those_at_which_a_large_step_is_worth_its_price() -> None:
    # At the default price of 0.0008 the step costs 0.016 (20 tokens), and gains twice as much.
    assert levels_of(DIALS["pomdp"], decisions(0.032, compared_with=0.016)) == pytest.approx([0.0016])
    assert levels_of(DIALS["pomdp"], decisions(None, -1.0, 0.0, 1e-12)) == []
    assert levels_of(DIALS["pomdp"], decisions(1.0, compared_with=None)) == []


def test_at_the_highest_price_that_is_always_tried_no_large_step_is_worth_its_tokens() -> None:
    [*_, highest] = grid(DIALS["pomdp"], [], points=3)
    assert highest * 1 >= 1.0, "one token costs as much as a right answer is worth"


@pytest.mark.parametrize("name", DIALS)
def test_every_dial_is_a_parameter_that_takes_its_values_and_its_probe(name: str) -> None:
    dial = DIALS[name]
    for parameters in (dial.probe or {}, *({dial.parameter: value} for value in grid(dial, [0.5, 0.75], points=2))):
        policy = build_policy(name, parameters)
        assert parameters.items() <= policy.model_dump().items()
    assert (dial.probe is None) <= issubclass(POLICIES[name], FittedPolicy)


def test_the_probe_of_a_threshold_escalates_nothing_and_reads_scores() -> None:
    assert 0 < LEAST < 1e-300
    assert build_policy("threshold", {"threshold": LEAST}).plan.scores
