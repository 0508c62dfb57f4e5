"""The values that the policy `pomdp` plans with, against cases worked out by hand and against playing the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.policies.artefact import Floats
from shared.policies.pomdp.belief import Belief
from shared.policies.pomdp.model import BINS, Model
from shared.policies.pomdp.planning import GRID, Prices, Values, compute_values
from tests.unit.policies.pomdp_models import BLIND, make_model, released_model

quick = settings(max_examples=30, deadline=None, derandomize=True, database=None)
shares = st.floats(0, 1)


def draw_model(seed: int, horizon: int) -> Model:
    """Draw any model."""
    random = np.random.default_rng(seed)
    small, final, large, *last = random.random(3 + horizon)
    model = make_model(
        random.random((3, BINS, BINS)) ** 4 + 1e-9,
        small_accuracy=small,
        rewrite_accuracy=large,
        last=(*last[:-1], 1.0),
        large_tokens=random.uniform(1, 100),
    )
    return replace(model, final_accuracy=final)


models = st.builds(draw_model, st.integers(0, 10**6), st.integers(1, 5))
beliefs = st.tuples(*[st.floats(0.001, 1)] * 3).map(lambda parts: Belief(*(part / sum(parts) for part in parts)))


def values_of(model: Model, *, large: float, draft: float = 0.0, joint: bool = False) -> Values:
    seen = model.observed.reshape(3, -1) if joint else model.scored
    return compute_values(model, seen, Prices(large_token=large, draft_token=draft))


def escalates(values: Values, belief: Belief[float], *, step: int, is_final: bool) -> bool:
    accepted, escalated = values.compare(belief, step=step, is_final=is_final)
    return escalated - accepted > values.large_price(step)


# --- oracles ----------------------------------------------------------------------------------------------------------


@quick
@given(model=models, belief=beliefs, step=st.integers(0, 9), is_final=st.booleans())
def test_a_large_model_that_never_errs_and_costs_nothing_writes_all_that_can_be_saved(
    model: Model, belief: Belief[float], step: int, is_final: bool
) -> None:
    perfect = make_model(model.observed, rewrite_accuracy=1.0, last=tuple(model.last))
    values = values_of(perfect, large=0.0)
    assert escalates(values, belief, step=step, is_final=is_final)
    assert not escalates(values, Belief(0.0, 1.0, 0.0), step=step, is_final=is_final)


@quick
@given(model=models, belief=beliefs, step=st.integers(0, 9), is_final=st.booleans())
def test_at_a_price_above_the_result_nothing_is_escalated(
    model: Model, belief: Belief[float], step: int, is_final: bool
) -> None:
    price = 1.001 / float(model.large_tokens.min())
    assert not escalates(values_of(model, large=price), belief, step=step, is_final=is_final)


@quick
@given(model=models, price=st.floats(0, 0.01))
def test_a_solution_is_worth_a_share_of_the_result_and_more_if_its_prefix_is_more_likely_right(
    model: Model, price: float
) -> None:
    values = values_of(model, large=price).unfinished
    assert values.min() >= 0
    assert values.max() <= 1 + 1e-9
    assert (np.diff(values, axis=1) >= -1e-12).all()
    assert (np.diff(values, n=2, axis=1) >= -1e-9).all(), "convex: information never hurts"


@quick
@given(model=models, first=st.floats(0, 0.01), second=st.floats(0, 0.01))
def test_large_tokens_that_a_plan_expects_do_not_increase_with_their_price(
    model: Model, first: float, second: float
) -> None:
    """The slope of the value in the price is minus the expected tokens, so it must rise: the value is convex."""
    at_first, between, at_second = (
        values_of(model, large=price).ahead(0, 1.0) for price in (first, (first + second) / 2, second)
    )
    assert between <= (at_first + at_second) / 2 + 1e-4, "the interpolation between points of x errs by less"


def test_scores_that_mean_nothing_leave_the_value_at_the_better_of_always_and_never() -> None:
    """Without evidence the belief is the same whatever is observed, so each step has one best action for all."""
    model = make_model(BLIND, small_accuracy=0.5, rewrite_accuracy=0.9, last=(0.0, 1.0), large_tokens=10)
    assert values_of(model, large=0.001).ahead(0, 1.0) == pytest.approx(0.9**2 - 2 * 0.01)
    assert values_of(model, large=0.05).ahead(0, 1.0) == pytest.approx(0.5**2)


def test_if_all_solutions_have_two_steps_the_second_draft_is_final_with_certainty() -> None:
    """An accepted first step is followed by one draft, which decides; a hazard that is read one late shows here."""
    model = make_model(last=(0.0, 1.0), small_accuracy=0.75, rewrite_accuracy=0.9, large_tokens=20)
    values = values_of(model, large=0.01)
    # The PRM gives states away: a right draft is kept, a wrong one is replaced for 0.2 by a step that is right at 0.9.
    one_step = 0.75 + 0.25 * (0.9 - 0.2)
    assert values.ahead(1, 1.0) == pytest.approx(one_step, abs=1e-6)
    accepted, escalated = values.compare(Belief(1.0, 0.0, 0.0), step=0, is_final=False)
    assert (accepted, escalated) == pytest.approx((one_step, 0.9 * one_step), abs=1e-6)
    assert values.ahead(0, 1.0) == pytest.approx(0.75 * one_step + 0.25 * (0.9 * one_step - 0.2), abs=1e-6)


def test_a_final_draft_is_worth_the_chance_that_it_is_right() -> None:
    values = values_of(make_model(rewrite_accuracy=0.8), large=0.01)
    assert values.compare(Belief(0.5, 0.3, 0.2), step=1, is_final=True) == pytest.approx((0.5, 0.8 * 0.7))


def test_a_solution_beyond_the_horizon_is_worth_what_it_is_worth_at_its_end() -> None:
    values = values_of(released_model(), large=1e-3)
    assert values.ahead(99, 0.5) == values.ahead(29, 0.5)
    assert values.large_price(99) == values.large_price(29) == pytest.approx(0.0617)


# --- drafts that are skipped ------------------------------------------------------------------------------------------


@quick
@given(model=models, price=st.floats(0, 0.01), step=st.integers(0, 9))
def test_a_draft_that_costs_nothing_is_worth_drafting(model: Model, price: float, step: int) -> None:
    values = values_of(model, large=price)
    drafted, at_once = values.compare_drafting(GRID, step=step)
    assert (drafted >= at_once - values.large_price(step) - 1e-9).all()


def test_a_draft_is_skipped_where_it_costs_more_than_the_choice_is_worth() -> None:
    """Right drafts save the 0.1 of a large step; at an accuracy of 0.75 a draft is worth 0.075 and what it adds."""
    model = make_model(rewrite_accuracy=1.0, last=(1.0,), large_tokens=10, small_tokens=1)
    for draft_price, is_skipped in ((0.074, False), (0.076, True)):
        values = values_of(model, large=0.01, draft=draft_price)
        drafted, at_once = values.compare_drafting(1.0, step=0)
        assert drafted == pytest.approx(0.75 + 0.25 * 0.9, abs=1e-6)
        assert at_once == 1.0
        assert (values.draft_price(0) > drafted - (at_once - 0.1)) == is_skipped
        assert values.ahead(0, 1.0) == pytest.approx(max(0.975 - draft_price, 0.9), abs=1e-6)


# --- playing the model ------------------------------------------------------------------------------------------------


def play(values: Values, seen: Floats, *, problems: int, seed: int) -> Floats:
    """Play the model with the best decisions; return each problem's result less the price of its tokens."""
    model, random = values.model, np.random.default_rng(seed)
    right, running, x, gained = np.ones(problems, bool), np.ones(problems, bool), np.ones(problems), np.zeros(problems)
    up_to = seen.cumsum(axis=1)
    for step in range(model.horizon):
        is_final = random.random(problems) < model.last[step]
        accuracy = np.where(is_final, model.final_accuracy, model.small_accuracy)
        small_right = random.random(problems) < accuracy
        large_right = random.random(problems) < model.rewrite_accuracy
        state = np.where(right, np.where(small_right, 0, 2), 1)
        lot = random.random(problems)
        found = np.select(
            [state == each for each in range(3)], [np.searchsorted(up_to[each], lot) for each in range(3)]
        )
        found = np.minimum(found, seen.shape[1] - 1)
        parts = seen[:, found] * [accuracy * x, 1 - x, (1 - accuracy) * x]
        belief = Belief(*parts / parts.sum(axis=0))
        at_end, before = (values.compare(belief, step=step, is_final=each) for each in (True, False))
        accepted, escalated = np.where(is_final, at_end, before)
        drafted, at_once = values.compare_drafting(x, step=step)
        skips = at_once - values.large_price(step) > drafted - values.draft_price(step)
        by_large = skips | (escalated - accepted > values.large_price(step))
        right &= np.where(by_large, large_right, small_right)
        gained += running * (is_final * right - by_large * values.large_price(step) - ~skips * values.draft_price(step))
        replaced = model.rewrite_accuracy * (belief.right + belief.step_wrong)
        x = np.where(skips, model.rewrite_accuracy * x, np.where(by_large, replaced, belief.right))
        running &= ~is_final
    return gained


@pytest.mark.parametrize(
    ("large", "draft", "joint"),
    [
        (2e-4, 0.0, False),
        (8e-4, 0.0, False),
        (4e-3, 0.0, False),
        (8e-4, 0.0, True),
        (4e-3, 0.0, True),
        (1e-4, 1e-4, False),
    ],
)
def test_the_released_model_played_is_worth_what_was_planned(large: float, draft: float, joint: bool) -> None:
    model = released_model()
    values = values_of(model, large=large, draft=draft, joint=joint)
    gained = play(values, model.observed.reshape(3, -1) if joint else model.scored, problems=10_000, seed=5)
    error = gained.std() / np.sqrt(len(gained))
    assert abs(gained.mean() - values.ahead(0, 1.0)) < 3 * error


def test_a_model_that_skips_drafts_is_worth_what_was_planned() -> None:
    model = released_model()
    values = values_of(model, large=1e-4, draft=3e-4)
    drafted, at_once = values.compare_drafting(GRID, step=3)
    skipped = at_once - values.large_price(3) > drafted - values.draft_price(3)
    assert 0 < skipped.mean() < 1, "some drafts are skipped and others are not"
    gained = play(values, model.scored, problems=10_000, seed=5)
    assert abs(gained.mean() - values.ahead(0, 1.0)) < 3 * gained.std() / 100
