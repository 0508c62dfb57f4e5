"""Properties of every policy, and the decisions of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.decisions import Action, Decision, Observation
from shared.domain.options import Plan
from shared.errors import PermanentError
from shared.policies.artefact import BadArtefact
from shared.policies.policy import FittedPolicy, Policy
from shared.policies.pomdp.policy import Pomdp
from shared.policies.registry import POLICIES, BadParameters, UnknownPolicy, build_policy, check_artefact
from tests.unit.policies import learned
from tests.unit.policies.pomdp_models import artefact_of, released_model

READY: dict[str, Policy] = {
    name: build_policy(name, {}) for name in POLICIES if not issubclass(POLICIES[name], FittedPolicy)
}
READY |= {name: learned.fitted(name) for name in learned.POLICIES}
READY["pomdp"] = Pomdp().fitted(artefact_of(released_model()))
"""Every policy, ready to decide."""

quick = settings(max_examples=100, deadline=None, derandomize=True, database=None)
shares = st.floats(0, 1)
cuts = st.floats(0, 1, exclude_min=True)
observations = st.builds(
    Observation,
    step=st.integers(0, 30),
    score=st.none() | shares,
    previous_scores=st.lists(st.none() | shares, max_size=4).map(tuple),
    draft_tokens=st.none() | st.integers(0, 512),
    mean_logprob=st.none() | st.floats(allow_nan=False),
    min_logprob=st.none() | st.floats(allow_nan=False),
    thoughts=st.lists(st.integers(0, 32), max_size=4).map(tuple),
    is_final=st.booleans(),
    large_out=st.integers(0, 4096),
    seed=st.integers(),
)


def escalates(name: str, observation: Observation, **parameters: float) -> bool:
    return build_policy(name, parameters).decide(observation).action is Action.ESCALATE


@quick
@given(name=st.sampled_from(sorted(POLICIES)), observation=observations)
def test_every_policy_is_total_and_deterministic(name: str, observation: Observation) -> None:
    first, second = (READY[name].decide(observation) for _ in range(2))
    assert first == second
    assert first.reason


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_and_parameter_has_a_description(name: str) -> None:
    kind = POLICIES[name]
    assert kind.name == name
    assert kind.__doc__
    assert kind.revision >= 1
    assert all(field.description for field in kind.model_fields.values())


@quick
@given(name=st.sampled_from(["threshold", "confidence"]), observation=observations, two=st.tuples(cuts, cuts))
def test_a_higher_threshold_escalates_whatever_a_lower_one_does(
    name: str, observation: Observation, two: tuple[float, float]
) -> None:
    lower, higher = sorted(two)
    if escalates(name, observation, threshold=lower):
        assert escalates(name, observation, threshold=higher)


@quick
@given(score=st.floats(0, 1, exclude_max=True))
def test_a_score_equal_to_the_threshold_is_kept(score: float) -> None:
    decision = build_policy("threshold", {"threshold": score}).decide(Observation(step=0, score=score))
    assert (decision.action, decision.reason) == (Action.ACCEPT, "score_at_least_threshold")
    assert (decision.value, decision.compared_with) == (score, score)


def test_a_score_just_below_the_threshold_is_escalated() -> None:
    decision = build_policy("threshold", {}).decide(Observation(step=0, score=0.4999999))
    assert (decision.action, decision.reason) == (Action.ESCALATE, "score_below_threshold")
    assert (decision.value, decision.compared_with) == (0.4999999, 0.5)


@pytest.mark.parametrize(
    ("value", "plan", "action"),
    [
        (0.0, Plan(drafts=True, scores=False, escalates=False), Action.ACCEPT),
        (0.5, Plan(drafts=True, scores=True, escalates=True), Action.ESCALATE),
        (1.0, Plan(drafts=False, scores=False, escalates=True), Action.ESCALATE),
    ],
)
def test_a_threshold_at_either_end_needs_one_model_and_no_score(value: float, plan: Plan, action: Action) -> None:
    policy = build_policy("threshold", {"threshold": value})
    assert policy.plan == plan
    decision = policy.decide(Observation(step=0, score=None))
    assert (decision.action, decision.reason) == (action, "threshold_without_score")


@pytest.mark.parametrize("name", ["threshold", "cascade"])
def test_a_threshold_of_one_escalates_a_perfect_score_too(name: str) -> None:
    """A shadow and a replay see scores that the policy itself never asks for."""
    policy = build_policy(name, {"threshold": 1.0})
    decision = policy.decide(Observation(step=1, score=1.0, previous_scores=(1.0,)))
    assert (decision.action, decision.value) == (Action.ESCALATE, 1.0)


def test_confidence_compares_the_geometric_mean_or_the_least_probability_of_the_tokens() -> None:
    draft = Observation(step=0, score=None, mean_logprob=math.log(0.8), min_logprob=math.log(0.3))
    mean = build_policy("confidence", {"of": "mean", "threshold": 0.5}).decide(draft)
    assert (mean.action, mean.reason) == (Action.ACCEPT, "confidence_at_least_threshold")
    assert (mean.value, mean.compared_with) == (pytest.approx(0.8), 0.5)
    least = build_policy("confidence", {"of": "least", "threshold": 0.5}).decide(draft)
    assert (least.action, least.reason) == (Action.ESCALATE, "confidence_below_threshold")
    assert (least.value, least.compared_with) == (pytest.approx(0.3), 0.5)


@pytest.mark.parametrize("of", ["mean", "least"])
def test_a_draft_of_unknown_confidence_is_escalated(of: str) -> None:
    known = {"mean_logprob": 0.0} if of == "least" else {"min_logprob": 0.0}
    decision = build_policy("confidence", {"of": of}).decide(Observation(step=0, score=None, **known))
    assert (decision.action, decision.reason, decision.value) == (Action.ESCALATE, "no_confidence", None)


def test_a_draft_that_the_model_was_certain_of_is_kept_at_any_threshold() -> None:
    certain = Observation(step=0, score=None, mean_logprob=0.0)
    assert build_policy("confidence", {"threshold": 1.0}).decide(certain).action is Action.ACCEPT


def test_confidence_needs_no_prm() -> None:
    assert build_policy("confidence", {}).plan == Plan(scores=False, confidence=True)


# --- thoughts -------------------------------------------------------------------------------------------------------

THOUGHT_AND_TEXT = {
    "threshold": ("score_below_threshold", "score_at_least_threshold"),
    "cascade": ("least_score_below_threshold", "least_score_at_least_threshold"),
    "confidence": ("confidence_below_threshold", "confidence_at_least_threshold"),
}


def a_draft(number: float, *, is_thought: bool) -> Observation:
    logprob = math.log(number)
    thoughts = (0,) if is_thought else ()
    return Observation(step=0, score=number, mean_logprob=logprob, min_logprob=logprob, thoughts=thoughts)


def test_every_policy_with_a_threshold_has_one_for_thoughts() -> None:
    with_threshold = {name for name, kind in POLICIES.items() if "threshold" in kind.model_fields}
    assert with_threshold == {name for name, kind in POLICIES.items() if "thought_threshold" in kind.model_fields}
    assert with_threshold == THOUGHT_AND_TEXT.keys()


@pytest.mark.parametrize("name", sorted(THOUGHT_AND_TEXT))
@pytest.mark.parametrize("number", [0.1, 0.3, 0.9])
@pytest.mark.parametrize("for_thoughts", [None, 0.2, 0.4])
def test_a_thought_is_compared_with_its_own_threshold_or_with_none(
    name: str, number: float, for_thoughts: float | None
) -> None:
    policy = build_policy(name, {"threshold": 0.5, "thought_threshold": for_thoughts})
    below, at_least = THOUGHT_AND_TEXT[name]
    text = policy.decide(a_draft(number, is_thought=False))
    assert (text.reason, text.compared_with) == (below if number < 0.5 else at_least, 0.5)
    thought = policy.decide(a_draft(number, is_thought=True))
    if for_thoughts is None:
        assert thought == Decision(action=Action.ACCEPT, reason="thought")
    else:
        expected = below if number < for_thoughts else at_least
        assert (thought.reason, thought.value, thought.compared_with) == (expected, pytest.approx(number), for_thoughts)


@pytest.mark.parametrize("name", ["threshold", "cascade"])
@pytest.mark.parametrize(("both", "action"), [(0.0, Action.ACCEPT), (1.0, Action.ESCALATE)])
def test_a_threshold_that_chooses_one_model_chooses_it_for_thoughts_too(name: str, both: float, action: Action) -> None:
    assert build_policy(name, {"threshold": both}).decide(a_draft(0.5, is_thought=True)).action is action


@pytest.mark.parametrize("name", ["threshold", "cascade"])
def test_a_plan_has_what_either_threshold_needs(name: str) -> None:
    def plan(text: float, thoughts: float) -> tuple[bool, bool, bool]:
        plan = build_policy(name, {"threshold": text, "thought_threshold": thoughts}).plan
        return plan.drafts, plan.scores, plan.escalates

    assert plan(1.0, 0.5) == plan(0.0, 0.5) == (True, True, True)
    assert plan(1.0, 0.0) == plan(0.0, 1.0) == (True, False, True)
    assert plan(0.0, 0.0) == (True, False, False)
    assert plan(1.0, 1.0) == (False, False, True)


def test_a_cascade_compares_each_step_of_the_solution_with_the_threshold_of_its_kind() -> None:
    def decide(**parameters: float) -> Decision:
        seen = Observation(step=0, score=0.3, following_scores=(0.6, 0.4), thoughts=(0, 1))
        return build_policy("cascade", parameters).decide(seen)

    assert (decide(threshold=0.5).value, decide(threshold=0.5).action) == (0.4, Action.ESCALATE)
    assert (decide(threshold=0.4).value, decide(threshold=0.4).action) == (0.4, Action.ACCEPT)
    thought = decide(threshold=0.4, thought_threshold=0.5)
    assert (thought.value, thought.compared_with, thought.action) == (0.3, 0.5, Action.ESCALATE)


@quick
@given(observation=observations)
def test_a_baseline_never_uses_the_other_model(observation: Observation) -> None:
    assert not escalates("small-only", observation)
    assert escalates("large-only", observation)
    assert build_policy("small-only", {}).plan == Plan(scores=False, escalates=False)
    assert build_policy("large-only", {}).plan == Plan(drafts=False, scores=False)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_lots_escalate_their_share_of_steps(p: float) -> None:
    drawn = [
        escalates("random", Observation(step=step, score=None, seed=seed), p=p)
        for seed in range(400)
        for step in range(10)
    ]
    assert sum(drawn) / len(drawn) == pytest.approx(p, abs=0.03)


def test_problems_of_one_seed_draw_different_lots_and_each_its_share() -> None:
    """An evaluation uses one seed for all problems; their steps must still be independent draws."""
    policy = build_policy("random", {"p": 0.3})

    def escalated(question: str) -> tuple[bool, ...]:
        seen = (Observation(step=step, score=None, seed=7, question_digest=question) for step in range(10))
        return tuple(policy.decide(each).action is Action.ESCALATE for each in seen)

    drawn = [escalated(f"{question:016x}") for question in range(400)]
    assert len(set(drawn)) > 200
    for step in range(10):
        assert sum(each[step] for each in drawn) / len(drawn) == pytest.approx(0.3, abs=0.08)


def test_a_lot_depends_on_seed_question_and_step_alone() -> None:
    policy = build_policy("random", {"p": 0.5})
    assert policy.plan == Plan(scores=False)
    one = policy.decide(Observation(step=3, score=None, seed=7))
    assert policy.decide(Observation(step=3, score=0.9, seed=7, large_out=99, is_final=True)) == one
    assert policy.decide(Observation(step=3, score=None, seed=7, question_digest="ab")).value != one.value
    assert one.value is not None
    assert 0 <= one.value < 1
    assert policy.decide(Observation(step=4, score=None, seed=7)).value != one.value
    assert policy.decide(Observation(step=3, score=None, seed=8)).value != one.value
    assert one.reason == ("lot_drawn" if one.value < 0.5 else "lot_not_drawn")


def test_a_version_names_policy_revision_and_parameters() -> None:
    half, same, third = (build_policy("threshold", {"threshold": value}).version for value in (0.5, 0.5, 0.3))
    assert half == same
    assert (half.name, half.revision, len(half.parameters_digest)) == ("threshold", 2, 16)
    assert (third.name, third.revision) == ("threshold", 2)
    assert third.parameters_digest != half.parameters_digest
    assert build_policy("random", {}).version.revision == 2, "lots depend on the question since this revision"
    assert build_policy("threshold", {}).version == half, "defaults are part of the version"


class Cautious(Policy):
    """A policy that escalates everything and does not override `plan`."""

    name: ClassVar[str] = "cautious"

    def decide(self, observation: Observation) -> Decision:
        return Decision(action=Action.ESCALATE, reason="cautious")


def test_a_policy_without_a_plan_needs_all_models() -> None:
    assert Cautious().plan == Plan(drafts=True, scores=True, escalates=True)


def test_an_unknown_policy_is_a_typed_error_that_names_the_known_ones() -> None:
    with pytest.raises(UnknownPolicy, match=", ".join(sorted(POLICIES))) as caught:
        build_policy("x" * 1000, {})
    assert isinstance(caught.value, PermanentError)
    assert caught.value.code == "unknown_policy"
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("threshold", {"threshold": 1.5}),
        ("threshold", {"threshold": -0.1}),
        ("threshold", {"threshold": float("nan")}),
        ("threshold", {"threshold": "much"}),
        ("threshold", {"unknown": 1}),
        ("small-only", {"p": 1}),
        ("random", {"p": 2}),
        ("confidence", {"threshold": 0.0}),
        ("confidence", {"of": "median"}),
    ],
)
def test_wrong_parameters_are_a_typed_error_that_names_the_parameter(name: str, parameters: dict[str, object]) -> None:
    with pytest.raises(BadParameters, match=repr(next(iter(parameters)))) as caught:
        build_policy(name, parameters)
    assert caught.value.code == "bad_policy_parameters"


def test_an_artefact_is_checked_by_a_decision() -> None:
    check_artefact("pomdp", artefact_of(released_model()))
    for name, said in (("aggregate", "not for 'aggregate'"), ("threshold", "no versions"), ("dice", "no versions")):
        with pytest.raises(BadArtefact, match=said):
            check_artefact(name, artefact_of(released_model()))


@pytest.mark.parametrize(
    ("decide", "said"),
    [
        (lambda *_: Decision(action=Action.ACCEPT, reason="x", value=math.nan), "not finite"),
        (lambda *_: 1 / 0, r"cannot decide with this artefact \(ZeroDivisionError\)"),
    ],
)
def test_an_artefact_with_which_the_policy_breaks_is_refused(
    decide: Callable[..., Decision], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pomdp, "decide", decide)
    with pytest.raises(BadArtefact, match=said):
        check_artefact("pomdp", artefact_of(released_model()))
