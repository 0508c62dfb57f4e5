"""The policy `pomdp`: what it believes, what it decides, and when it skips a draft."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from shared.domain.decisions import Action, Observation
from shared.domain.options import Plan
from shared.domain.roles import Author
from shared.policies.artefact import Artefact, BadArtefact
from shared.policies.pomdp.policy import Pomdp
from tests.unit.policies.pomdp_models import BLIND, artefact_of, fitted, make_model, released_model

SMALL, LARGE = Author.SMALL, Author.LARGE

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)
scores = st.none() | st.floats(0, 1)
past = st.lists(st.tuples(scores, st.sampled_from(Author)), max_size=8)


@cache
def released(**parameters: Any) -> Pomdp:
    return fitted(released_model(), **parameters)


def seen(score: float | None, *previous: tuple[float | None, Author], is_final: bool = False) -> Observation:
    return Observation(
        step=len(previous),
        score=score,
        previous_scores=tuple(score for score, _ in previous),
        previous_authors=tuple(author for _, author in previous),
        draft_tokens=None if score is None else 40,
        is_final=is_final,
    )


def belief_of(policy: Pomdp, observation: Observation) -> tuple[float, ...]:
    numbers = policy.decide(observation).numbers
    return tuple(numbers[name] for name in ("right", "prefix_wrong", "step_wrong"))


# --- every decision ---------------------------------------------------------------------------------------------------


@quick
@given(
    parameters=st.sampled_from([{}, {"belief": "memoryless"}, {"draft_token_price": 3e-4, "large_token_price": 1e-4}]),
    score=scores,
    previous=past,
    is_final=st.booleans(),
)
def test_it_decides_on_any_observation_by_comparing_gain_and_price(
    parameters: dict[str, Any], score: float | None, previous: list[tuple[float | None, Author]], is_final: bool
) -> None:
    policy = released(**parameters)
    observation = seen(score, *previous, is_final=is_final)
    decision = policy.decide(observation)
    assert policy.decide(observation) == decision
    assert decision.value is not None
    assert decision.compared_with is not None
    assert (decision.action is Action.ESCALATE) == (decision.value > decision.compared_with)
    assert decision.numbers["value_escalated"] - decision.numbers["value_accepted"] == decision.value
    belief = belief_of(policy, observation)
    assert sum(belief) == pytest.approx(1)
    assert min(belief) >= 0
    skipped = policy.before_draft(replace(observation, score=None, draft_tokens=None))
    assert skipped is None or "draft_token_price" in parameters


def test_a_draft_that_looks_wrong_is_escalated_and_one_that_looks_right_is_kept() -> None:
    low, high = (released().decide(seen(score, (0.99, SMALL))) for score in (0.02, 0.99))
    assert (low.action, low.reason) == (Action.ESCALATE, "gain_above_price")
    assert (high.action, high.reason) == (Action.ACCEPT, "gain_at_most_price")


def test_the_price_is_that_of_the_tokens_that_a_draft_leads_to_expect() -> None:
    model = replace(make_model(), rewrite_tokens=np.array([10.0, 0.5]))
    policy = fitted(model, large_token_price=0.001)
    prices = [policy.decide(replace(seen(0.5), draft_tokens=tokens)).compared_with for tokens in (0, 20, 60)]
    assert prices == pytest.approx([0.01, 0.02, 0.04])


def test_without_the_tokens_of_a_draft_the_price_is_that_of_the_mean_large_step_at_the_index() -> None:
    model = make_model()
    model.large_tokens[:] = (10.0, 20.0, 30.0)
    policy = fitted(model, large_token_price=0.001)
    unknown = replace(seen(0.5), draft_tokens=None)
    prices = [policy.decide(replace(unknown, step=step)).compared_with for step in (0, 1, 2, 3)]
    assert prices == pytest.approx([0.01, 0.02, 0.03, 0.03])


def test_scores_that_mean_nothing_change_no_decision() -> None:
    policy = fitted(make_model(BLIND, rewrite_accuracy=0.99), large_token_price=0.002)
    decisions = [policy.decide(seen(score, (before, SMALL))) for score in (0.0, 0.5, 1.0) for before in (0.1, 0.9)]
    assert len({decision.action for decision in decisions}) == 1
    assert [decision.value for decision in decisions] == pytest.approx([decisions[0].value] * 6)


def test_a_spoilt_solution_is_not_worth_a_large_token() -> None:
    """Two steps in a row look wrong and were kept: what follows cannot be saved."""
    spoilt = released().decide(seen(0.02, (0.02, SMALL), (0.02, SMALL)))
    assert spoilt.numbers["prefix_wrong"] > 0.98
    assert spoilt.action is Action.ACCEPT


def test_steps_beyond_the_horizon_of_the_model_are_decided() -> None:
    decision = released().decide(seen(0.02, *[(0.99, SMALL)] * 40))
    assert (decision.action, decision.compared_with) == (Action.ESCALATE, pytest.approx(8e-4 * 61.7))


# --- the filter -------------------------------------------------------------------------------------------------------


def test_the_first_belief_is_bayes_rule_on_the_small_models_accuracy() -> None:
    model = released_model()
    parts = np.array([0.866, 0.0, 0.134]) * model.scored[:, 19]
    assert belief_of(released(), seen(1.0)) == pytest.approx(parts / parts.sum())


def test_a_step_is_judged_by_the_accuracy_of_its_author() -> None:
    model = released_model()
    small = model.small_accuracy
    for author, accuracy in ((SMALL, small), (LARGE, model.rewrite_accuracy)):
        right, prefix_wrong, _ = (
            np.array([accuracy, 0.0, 1 - accuracy])
            * model.scored[:, 10]
            / (model.scored[0, 10] * accuracy + model.scored[2, 10] * (1 - accuracy))
        )
        assert prefix_wrong == 0
        assert belief_of(released(), seen(None, (0.51, author))) == pytest.approx(
            (right * small, 1 - right, right * (1 - small))
        )


def test_a_draft_that_finishes_the_solution_is_judged_by_the_accuracy_of_such_drafts() -> None:
    model = replace(make_model(BLIND, small_accuracy=0.9), final_accuracy=0.99)
    unknown = seen(None, (None, SMALL))
    assert belief_of(fitted(model), unknown) == pytest.approx((0.9 * 0.9, 0.1, 0.9 * 0.1))
    assert belief_of(fitted(model), replace(unknown, is_final=True)) == pytest.approx((0.9 * 0.99, 0.1, 0.9 * 0.01))


def test_a_score_of_a_large_step_is_evidence() -> None:
    low, none, high = (belief_of(released(), seen(0.9, (score, LARGE)))[1] for score in (0.02, None, 0.99))
    assert high < none < low


def test_a_missing_score_is_no_evidence() -> None:
    assert belief_of(released(), seen(None)) == pytest.approx((0.866, 0.0, 0.134))
    unknown = belief_of(released(), seen(None, (None, SMALL)))
    assert unknown == pytest.approx((0.866**2, 0.134, 0.866 * 0.134))


def test_steps_of_unknown_authors_count_as_small_ones() -> None:
    known = seen(0.5, (0.9, SMALL), (0.4, SMALL))
    assert belief_of(released(), replace(known, previous_authors=())) == belief_of(released(), known)


def test_the_least_earlier_score_is_not_counted_a_second_time() -> None:
    """The filter has used it already, so the order of the earlier scores is what matters, not their minimum."""
    first, last = seen(0.9, (0.2, SMALL), (0.99, SMALL)), seen(0.9, (0.99, SMALL), (0.2, SMALL))
    assert first.min_previous == last.min_previous
    assert belief_of(released(), first) != pytest.approx(belief_of(released(), last))


def test_without_memory_a_belief_rests_on_the_draft_and_the_least_earlier_score() -> None:
    policy, model = released(belief="memoryless"), released_model()
    first, last = seen(0.9, (0.2, SMALL), (0.99, LARGE)), seen(0.9, (0.99, SMALL), (0.2, SMALL))
    likelihood = model.observed[:, 4, 18]
    assert belief_of(policy, first) == belief_of(policy, last) == pytest.approx(likelihood / likelihood.sum())
    assert belief_of(policy, seen(None, (0.2, SMALL))) == pytest.approx([1 / 3] * 3)


# --- before a draft ---------------------------------------------------------------------------------------------------


def test_drafts_without_a_price_are_never_skipped() -> None:
    policy = fitted(make_model(rewrite_accuracy=1.0), large_token_price=0.0)
    assert policy.before_draft(seen(None)) is None


def test_a_draft_is_skipped_if_its_price_is_above_its_worth() -> None:
    """One step, a large model that never errs: a draft saves 0.75 of the price of 0.1 of a large step."""
    model = make_model(rewrite_accuracy=1.0, last=(1.0,), large_tokens=10, small_tokens=1)
    assert fitted(model, large_token_price=0.01, draft_token_price=0.074).before_draft(seen(None)) is None
    decision = fitted(model, large_token_price=0.01, draft_token_price=0.076).before_draft(seen(None))
    assert decision is not None
    assert (decision.action, decision.reason) == (Action.ESCALATE, "draft_below_price")
    assert (decision.value, decision.compared_with) == (pytest.approx(0.075, abs=1e-6), 0.076)
    assert decision.numbers == {
        "prefix_right": 1.0,
        "value_drafted": pytest.approx(0.975, abs=1e-6),
        "value_at_once": 1.0,
    }


def test_whether_a_draft_is_skipped_depends_on_what_is_believed_of_the_steps_before() -> None:
    policy = released(large_token_price=1e-4, draft_token_price=1.5e-4)
    doubtful, trusted = (policy.before_draft(seen(None, (score, SMALL))) for score in (0.02, 0.99))
    assert (doubtful is None) != (trusted is None)


# --- parameters, artefacts, versions ----------------------------------------------------------------------------------


def test_it_needs_all_models_and_its_parameters_are_checked_without_an_artefact() -> None:
    assert Pomdp().plan == Plan()
    assert Pomdp(draft_token_price=1e-4).plan == Plan(skips_drafts=True)
    assert Pomdp().belief == "filter"
    for wrong in ({"large_token_price": -1.0}, {"draft_token_price": float("inf")}, {"belief": "strong"}, {"p": 1}):
        with pytest.raises(ValidationError):
            Pomdp.model_validate(wrong)


def test_it_decides_only_once_it_is_fitted() -> None:
    for policy in (Pomdp(), Pomdp(draft_token_price=1.0)):
        with pytest.raises(AssertionError, match="fitted"):
            policy.decide(seen(0.5))
    with pytest.raises(AssertionError, match="fitted"):
        Pomdp(draft_token_price=1.0).before_draft(seen(None))


def test_an_artefact_of_another_policy_is_refused() -> None:
    artefact = artefact_of(make_model())
    other = Artefact(artefact.card.model_copy(update={"policy": "aggregate"}), artefact.arrays)
    with pytest.raises(BadArtefact, match="'aggregate', not for 'pomdp'"):
        Pomdp().fitted(other)


def test_its_version_depends_on_parameters_and_artefact() -> None:
    bare = Pomdp()
    versions = [
        bare.version,
        bare.fitted(artefact_of(make_model())).version,
        bare.fitted(artefact_of(make_model(rewrite_accuracy=0.8))).version,
        Pomdp(large_token_price=1e-3).fitted(artefact_of(make_model())).version,
    ]
    assert len({version.parameters_digest for version in versions}) == 4
    assert bare.fitted(artefact_of(make_model())).version == versions[1]
    assert bare.version == Pomdp().version, "a fitted copy leaves the policy as it was"


# --- replay -----------------------------------------------------------------------------------------------------------

STORED = """{"step": 3, "score": 0.42, "previous_scores": [0.97, 0.88, null], "previous_authors": ["small", "large",
"large"], "draft_tokens": 31, "is_final": false, "large_out": 77, "seed": 7, "question_digest": "0123456789abcdef"}"""


DECIDED: dict[Literal["filter", "memoryless"], tuple[float, dict[str, float]]] = {
    "filter": (
        0.385454,
        {
            "right": 0.310492,
            "prefix_wrong": 0.247583,
            "step_wrong": 0.441925,
            "value_accepted": 0.242198,
            "value_escalated": 0.627653,
        },
    ),
    "memoryless": (
        0.778359,
        {
            "right": 0.081306,
            "prefix_wrong": 0.021391,
            "step_wrong": 0.897303,
            "value_accepted": 0.06963,
            "value_escalated": 0.847989,
        },
    ),
}


@pytest.mark.parametrize("belief", DECIDED)
def test_a_stored_observation_is_decided_as_it_was(belief: Literal["filter", "memoryless"]) -> None:
    """If this fails although the model has the same meaning, the policy decides differently: raise its revision."""
    observation = TypeAdapter(Observation).validate_python(json.loads(STORED))
    decision = released(belief=belief).decide(observation)
    value, numbers = DECIDED[belief]
    assert decision.action is Action.ESCALATE
    assert (decision.value, decision.compared_with) == pytest.approx((value, 8e-4 * 61.7), abs=1e-6)
    assert decision.numbers == pytest.approx(numbers, abs=1e-6)
    assert Pomdp.revision == 1


@pytest.mark.parametrize("price", ["large_token_price", "draft_token_price"])
def test_the_highest_price_gives_finite_numbers_and_higher_ones_are_refused(price: str) -> None:
    with pytest.raises(ValidationError):
        Pomdp.model_validate({price: 1e308})
    expensive = make_model(large_tokens=1e9, small_tokens=1e9)
    policy = Pomdp.model_validate({price: 1e6}).fitted(artefact_of(expensive))
    assert policy.decide(seen(0.1)).is_finite
    assert (skipped := policy.before_draft(seen(None))) is None or skipped.is_finite
