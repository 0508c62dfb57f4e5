"""Wrappers around policies, and the policy for whole solutions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.decisions import Action, Decision, Observation
from shared.domain.options import Plan, Wrappers
from shared.policies.pomdp.policy import Pomdp
from shared.policies.registry import BadParameters, build_policy, build_routing
from shared.policies.wrapping import Routing
from tests.unit.policies.pomdp_models import artefact_of, released_model

quick = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def wrapped(name: str = "threshold", parameters: dict[str, float] | None = None, **wrappers: float) -> Routing:
    return build_routing(name, parameters or {}, Wrappers(**wrappers))  # type: ignore[arg-type]


def seen(score: float | None, *, step: int = 0, seed: int = 0) -> Observation:
    return Observation(step=step, score=score, seed=seed, draft_tokens=20, question_digest="0123456789abcdef")


# --- wrappers ---------------------------------------------------------------------------------------------------------


def test_a_policy_without_wrappers_is_the_policy() -> None:
    policy = build_policy("threshold", {"threshold": 0.4})
    routing = Routing(policy)
    assert (routing.plan, routing.version) == (policy.plan, policy.version)
    assert routing.decide(seen(0.3)) == policy.decide(seen(0.3))
    assert routing.before_draft(seen(None)) is None


def test_every_wrapper_changes_the_version() -> None:
    versions = {
        wrapped(**each).version
        for each in ({}, {"budget": 0}, {"budget": 100}, {"take_over": True}, {"epsilon": 0.1}, {"epsilon": 0.2})
    }
    assert len(versions) == 6
    assert wrapped(budget=100).version == wrapped(budget=100).version


def test_a_choice_builds_the_same_routing_again() -> None:
    routing = wrapped("random", {"p": 0.25}, budget=300, epsilon=0.1)
    choice = routing.choice
    assert build_routing(choice.name, choice.parameters, choice.wrappers) == routing


def test_wrappers_are_part_of_the_plan() -> None:
    assert wrapped(budget=300, take_over=True).plan == Plan(large_budget=300, takes_over=True)
    assert wrapped("large-only", epsilon=0.1).plan == Plan(drafts=True, scores=False)
    assert wrapped("small-only", epsilon=0.1).plan == Plan(scores=False, escalates=True)


@pytest.mark.parametrize("score", [0.2, 0.8])
def test_explored_decisions_have_the_share_and_the_propensities_that_epsilon_says(score: float) -> None:
    own = build_policy("threshold", {}).decide(seen(score))
    routing = wrapped(epsilon=0.4)
    drawn = [routing.decide(seen(score, step=step, seed=seed)) for step in range(10) for seed in range(200)]
    explored = [each for each in drawn if each.reason == "explored"]
    assert len(explored) / len(drawn) == pytest.approx(0.4, abs=0.03)
    assert all(each.action is own.action for each in drawn if each.reason != "explored")
    other = [each for each in drawn if each.action is not own.action]
    assert len(other) / len(drawn) == pytest.approx(0.2, abs=0.03)
    assert {each.propensity for each in other} == {0.2}
    assert {each.propensity for each in drawn if each.action is own.action} == {0.8}


def test_an_explored_decision_keeps_the_numbers_that_the_policy_compared() -> None:
    def explored(routing: Routing) -> Decision:
        return next(each for seed in range(100) if (each := routing.decide(seen(0.2, seed=seed))).reason == "explored")

    found = explored(wrapped(epsilon=0.9))
    assert (found.numbers, found.compared_with) == ({"own_value": 0.2, "own_compared_with": 0.5}, 0.9)
    assert explored(wrapped("small-only", epsilon=0.9)).numbers == {}
    pomdp = Routing(Pomdp().fitted(artefact_of(released_model())))
    own, found = pomdp.decide(seen(0.2)), explored(replace(pomdp, wrappers=Wrappers(epsilon=0.9)))
    assert found.numbers == {**own.numbers, "own_value": own.value, "own_compared_with": own.compared_with}


def test_an_explored_decision_is_drawn_again_in_a_replay() -> None:
    routing = wrapped(epsilon=0.5)
    assert routing.decide(seen(0.2, step=3, seed=9)) == routing.decide(seen(0.2, step=3, seed=9))


def test_epsilon_does_not_share_its_lots_with_the_policy() -> None:
    """If it did, a policy that draws lots itself would be explored only where it escalates."""
    plain, explored = wrapped("random", {"p": 0.5}), wrapped("random", {"p": 0.5}, epsilon=0.5)
    drawn = [(plain.decide(seen(None, seed=seed)), explored.decide(seen(None, seed=seed))) for seed in range(400)]
    among = [other.reason == "explored" for own, other in drawn if own.action is Action.ESCALATE]
    assert sum(among) / len(among) == pytest.approx(0.5, abs=0.1)


def test_epsilon_does_not_explore_whole_solutions() -> None:
    with pytest.raises(BadParameters, match="'cascade' decides whole solutions"):
        wrapped("cascade", epsilon=0.1)
    assert wrapped("cascade", {"threshold": 1.0}, epsilon=0.1).plan.drafts


# --- cascade ----------------------------------------------------------------------------------------------------------

scores = st.none() | st.floats(0, 1)


@quick
@given(
    before=st.lists(scores, max_size=4).map(tuple),
    score=scores,
    after=st.lists(scores, max_size=4).map(tuple),
    threshold=st.floats(0, 1),
)
def test_the_least_known_score_of_the_solution_decides(
    before: tuple[float | None, ...], score: float | None, after: tuple[float | None, ...], threshold: float
) -> None:
    observation = Observation(step=len(before), score=score, previous_scores=before, following_scores=after)
    decision = build_policy("cascade", {"threshold": threshold}).decide(observation)
    known = [each for each in (*before, score, *after) if each is not None]
    if known:
        assert (decision.action is Action.ESCALATE) == (min(known) < threshold or threshold == 1)
        assert (decision.value, decision.compared_with) == (min(known), threshold)


def test_a_cascade_without_scores_decides_by_its_threshold_alone() -> None:
    for threshold, action in ((0.0, Action.ACCEPT), (0.5, Action.ESCALATE), (1.0, Action.ESCALATE)):
        assert build_policy("cascade", {"threshold": threshold}).decide(seen(None)) == Decision(
            action=action, reason="threshold_without_score", compared_with=threshold
        )


def test_a_cascade_has_whole_solutions_drafted_and_written_again() -> None:
    assert build_policy("cascade", {}).plan == Plan(takes_over=True, decides_whole=True)
    assert build_policy("cascade", {"threshold": 0.0}).plan == Plan(scores=False, escalates=False)
    assert build_policy("cascade", {"threshold": 1.0}).plan == Plan(drafts=False, scores=False)
