"""The simulated model of the policy `pomdp`, with the figures released with the TRIM paper."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Literal

import numpy as np
import pytest

from shared.domain.decisions import Action, Observation
from shared.domain.roles import Author
from shared.policies.pomdp.model import BINS
from shared.policies.pomdp.planning import Prices, Values, compute_values
from tests.unit.policies.pomdp_models import fitted, make_model, released_model
from training.pomdp_simulation import Bools, Choose, Outcomes, Seen, draw_traces, pomdp, simulate, threshold

PROBLEMS = 4000

PRICES = (1e-4, 8e-4, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3, 7e-3, 8e-3)


@cache
def values_at(price: float, *, memoryless: bool = False) -> Values:
    model = released_model()
    seen = model.observed.reshape(3, -1) if memoryless else model.scored
    return compute_values(model, seen, Prices(large_token=price, draft_token=0.0))


@cache
def solved(price: float) -> Outcomes:
    return simulate(released_model(), pomdp(values_at(price)), problems=PROBLEMS, seed=1)


def worth(outcomes: Outcomes, price: float) -> float:
    return float(np.mean(outcomes.is_right - price * outcomes.large_tokens))


def test_without_escalations_every_step_must_be_right() -> None:
    model = released_model()
    outcomes = simulate(model, threshold(model, 0.0), problems=20_000, seed=1)
    running, expected = 1.0, 0.0
    for step, last in enumerate(model.last):
        expected += running * last * model.final_accuracy ** (step + 1)
        running *= 1 - last
    assert outcomes.is_right.mean() == pytest.approx(expected, abs=3 * 0.5 / np.sqrt(20_000))
    assert outcomes.large_tokens.sum() == outcomes.escalations.sum() == 0


def test_a_threshold_of_1_escalates_every_step() -> None:
    outcomes = simulate(released_model(), threshold(released_model(), 1.0), problems=PROBLEMS, seed=1)
    assert outcomes.large_tokens == pytest.approx(outcomes.escalations * 61.7)
    assert 7 < outcomes.escalations.mean() < 8.5
    assert outcomes.escalations.min() >= 1


def test_the_same_seed_draws_the_same_problems_for_every_policy() -> None:
    first, again = (
        simulate(released_model(), threshold(released_model(), 0.5), problems=200, seed=2) for _ in range(2)
    )
    assert first.is_right.tolist() == again.is_right.tolist()
    lengths: dict[str, list[int]] = {"kept": [], "escalated": []}

    def noting(name: str, *, escalates: bool) -> Choose:
        def choose(seen: Seen) -> Bools:
            lengths[name].append(len(seen.scored))
            return np.full(len(seen.scored), escalates)

        return choose

    for name, escalates in (("kept", False), ("escalated", True)):
        simulate(released_model(), noting(name, escalates=escalates), problems=200, seed=2)
    assert lengths["kept"] == lengths["escalated"]


def test_escalations_do_not_increase_with_the_price() -> None:
    counts = [solved(price).escalations.mean() for price in PRICES]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 5 * counts[-1]


def test_its_curve_is_on_or_above_that_of_the_threshold() -> None:
    tokens = [solved(price).large_tokens.mean() for price in PRICES]
    accuracy = [solved(price).is_right.mean() for price in PRICES]
    for cut in (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9):
        outcomes = simulate(released_model(), threshold(released_model(), cut), problems=PROBLEMS, seed=1)
        reached = np.interp(outcomes.large_tokens.mean(), tokens[::-1], accuracy[::-1])
        assert reached >= outcomes.is_right.mean() - outcomes.is_right.std() / np.sqrt(PROBLEMS), cut
        if cut <= 0.65:
            assert reached > outcomes.is_right.mean() + 0.015, cut


@pytest.mark.parametrize("price", [8e-4, 4e-3])
def test_the_filter_is_worth_at_least_what_was_planned_and_more_than_a_belief_without_memory(price: float) -> None:
    """It uses the scores of large steps, which the plan does not expect, but not those of discarded drafts."""
    filtered = solved(price)
    error = np.std(filtered.is_right - price * filtered.large_tokens) / np.sqrt(PROBLEMS)
    assert worth(filtered, price) > values_at(price).ahead(0, 1.0) - 3 * error
    choose = pomdp(values_at(price, memoryless=True), memoryless=True)
    memoryless = simulate(released_model(), choose, problems=PROBLEMS, seed=1)
    assert worth(filtered, price) > worth(memoryless, price) + 0.02


@pytest.mark.parametrize("belief", ["filter", "memoryless"])
def test_the_simulated_policy_decides_like_the_real_one(belief: Literal["filter", "memoryless"]) -> None:
    price, is_memoryless = 2e-3, belief == "memoryless"
    policy = fitted(released_model(), large_token_price=price, belief=belief)
    simulated = pomdp(values_at(price, memoryless=is_memoryless), memoryless=is_memoryless)
    compared: list[bool] = []

    def both(seen: Seen) -> Bools:
        chosen = simulated(seen)
        for column, escalated in enumerate(chosen):
            observation = Observation(
                step=seen.step,
                score=(seen.scored[column] + 0.5) / BINS,
                previous_scores=tuple((seen.previous_scored[:, column] + 0.5) / BINS),
                previous_authors=tuple(
                    Author.LARGE if by_large else Author.SMALL for by_large in seen.previous_by_large[:, column]
                ),
                is_final=bool(seen.is_final[column]),
            )
            assert (policy.decide(observation).action is Action.ESCALATE) == escalated
            compared.append(bool(escalated))
        return chosen

    simulate(released_model(), both, problems=60, seed=4)
    assert 20 < sum(compared) < len(compared) - 100


def test_scores_are_drawn_within_the_bins_of_the_model_and_compared_by_their_middles() -> None:
    edges = np.concatenate([np.linspace(0, 0.9, 5), np.linspace(0.9, 1, 17)[1:]])
    model = replace(make_model(), edges=edges)
    traces = draw_traces(model, Author.SMALL, solutions=50, seed=1)
    right = [score for trace in traces for score in trace.scores[: trace.judged - (trace.first_error is not None)]]
    assert all(edges[19] <= score <= 1 for score in right), "a right step has the last bin"
    wrong = simulate(model, threshold(model, edges[10:12].mean()), problems=100, seed=1)
    more = simulate(model, threshold(model, edges[10:12].mean() + 1e-9), problems=100, seed=1)
    assert more.escalations.sum() - wrong.escalations.sum() > 0, "wrong drafts have bin 10"
