"""Which policies may shadow which, and what a shadow decides beside a decision."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

import numpy as np
import pytest

from shared.domain.decisions import Action, DecidedBy, Decision, DecisionRecord, Observation, PolicyVersion
from shared.domain.drafts import Draft, Finish, Scoring
from shared.domain.options import Wrappers
from shared.domain.roles import Author
from shared.domain.shadows import Skip, Skipped
from shared.domain.steps import Step
from shared.policies.policy import Policy
from shared.policies.pomdp.policy import Pomdp
from shared.policies.registry import build_routing
from shared.policies.shadowing import UnfitShadow, check_shadow, decide_as_shadow, reporting
from shared.policies.wrapping import Routing
from tests.unit.policies.pomdp_models import artefact_of, released_model

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DRAFT = Draft(
    id=UUID(int=1), author=Author.SMALL, index=1, prefix_digest="d", text="A step.", finish=Finish.SEPARATOR, tokens=5,
    opens_call=True, model="small-model", worker="w", waited_ms=0.0, worked_ms=0.0,
)  # fmt: skip
SCORING = Scoring(id=UUID(int=2), model="prm-model", worker="w", tokens=9, waited_ms=0.0, worked_ms=0.0)
LARGE_STEP = Step(
    index=0, author=Author.LARGE, text="One.", finish=Finish.SEPARATOR, tokens=5, score=0.5, model="large-model",
    worker="w", waited_ms=0.0, worked_ms=0.0, accepted_at=NOW,
)  # fmt: skip
LATER_STEP = replace(LARGE_STEP, index=1, model="a later model")
DECIDED = DecisionRecord(
    number=1,
    step=1,
    epoch=1,
    observation=Observation(
        step=1, score=0.4, previous_scores=(0.5,), previous_authors=(Author.LARGE,), previous_tokens=(5,),
        draft_tokens=5, mean_logprob=-0.5, min_logprob=-1.0, question_digest="0123456789abcdef",
    ),
    decision=Decision(action=Action.ESCALATE, reason="score_below_threshold", value=0.4, compared_with=0.5),
    decided_by=DecidedBy.POLICY,
    policy=PolicyVersion(name="threshold", revision=1, parameters_digest="0123456789abcdef"),
    draft=DRAFT,
    scoring=SCORING,
    decided_at=NOW,
)  # fmt: skip
UNDRAFTED = replace(
    DECIDED, draft=None, scoring=None, observation=replace(DECIDED.observation, score=None, draft_tokens=None)
)


def routing(name: str, wrappers: Wrappers | None = None, **parameters: Any) -> Routing:
    return build_routing(name, parameters, wrappers or Wrappers())


def check(shadow: Routing, policy: Routing) -> None:
    check_shadow(shadow, policy.plan, policy=policy.policy.name)


def decide(shadow: Routing, record: DecisionRecord = DECIDED) -> Decision | Skipped:
    return decide_as_shadow(shadow, record, (LARGE_STEP, LATER_STEP))


THRESHOLD = routing("threshold")
SKIPPING = routing("pomdp", draft_token_price=0.01)
BUDGETED = routing("threshold", Wrappers(budget=100, take_over=True))


@pytest.mark.parametrize(
    ("shadow", "policy"),
    [
        (routing("threshold", threshold=0.9), THRESHOLD),
        (THRESHOLD, BUDGETED),
        (routing("pomdp"), THRESHOLD),
        (routing("pomdp"), SKIPPING),
        (SKIPPING, SKIPPING),
        (routing("random"), routing("small-only")),
        (routing("large-only"), THRESHOLD),
        (routing("small-only"), THRESHOLD),
        (routing("threshold", threshold=1.0), routing("large-only")),
        (routing("confidence", of="least"), routing("confidence")),
        (routing("cascade", threshold=0.9), routing("cascade")),
        (THRESHOLD, routing("cascade")),
        (routing("threshold", Wrappers(epsilon=0.5)), THRESHOLD),
    ],
)
def test_a_policy_that_needs_no_more_than_the_deciding_one_may_shadow_it(shadow: Routing, policy: Routing) -> None:
    check(shadow, policy)


@pytest.mark.parametrize(
    ("shadow", "policy", "said"),
    [
        (THRESHOLD, routing("small-only"), "'threshold' needs PRM scores, which the policy 'small-only' does not ask"),
        (routing("confidence"), THRESHOLD, "needs log-probabilities"),
        (routing("random"), routing("large-only"), "needs drafts"),
        (THRESHOLD, routing("large-only"), "needs drafts and PRM scores"),
        (routing("cascade"), THRESHOLD, "needs the scores of whole solutions"),
        (SKIPPING, routing("pomdp"), "needs decisions before drafts"),
        (routing("random", Wrappers(epsilon=0.5)), routing("large-only"), "needs drafts"),
        (routing("threshold", Wrappers(budget=9)), BUDGETED, "`budget` and `take_over`"),
        (routing("threshold", Wrappers(take_over=True)), BUDGETED, "`budget` and `take_over`"),
    ],
)
def test_a_shadow_that_would_cause_work_or_mean_nothing_is_refused(shadow: Routing, policy: Routing, said: str) -> None:
    with pytest.raises(UnfitShadow, match=said):
        check(shadow, policy)


def test_drafts_report_what_a_shadow_reads_and_nothing_else_changes() -> None:
    confidence, without = routing("confidence"), THRESHOLD.plan
    assert reporting(without, [THRESHOLD]) == without
    found = reporting(without, [THRESHOLD, confidence])
    assert found == replace(without, confidence=True)
    check_shadow(confidence, found, policy="threshold")


def test_a_shadow_decides_as_if_it_were_the_policy() -> None:
    for shadow in (THRESHOLD, routing("random", Wrappers(epsilon=0.5)), routing("confidence"), routing("large-only")):
        assert decide(shadow) == shadow.decide(DECIDED.observation)


def fitted(**models: str) -> Routing:
    names = {"small": "small-model", "large": "large-model", "prm": "prm-model"} | models
    return Routing(Pomdp(draft_token_price=0.0).fitted(artefact_of(released_model(), **names)), number=4)


def test_a_fitted_shadow_decides_on_the_work_of_its_models() -> None:
    assert decide(fitted()) == fitted().decide(DECIDED.observation)


@pytest.mark.parametrize("role", ["small", "large", "prm"])
def test_a_fitted_shadow_is_skipped_if_another_model_did_the_work(role: str) -> None:
    skipped = decide(fitted(**{role: "another"}))
    assert isinstance(skipped, Skipped)
    said = f"The policy pomdp@4 was fitted on the {role} model another, not {role}-model."
    assert (skipped.reason, skipped.detail) == (Skip.MODELS_DIFFER, said)


class Skipping(Policy):
    """Escalates before the draft."""

    name: ClassVar[str] = "skipping"

    def decide(self, observation: Observation) -> Decision:
        raise AssertionError("there is a draft")

    def before_draft(self, observation: Observation) -> Decision | None:
        return Decision(action=Action.ESCALATE, reason="draft_below_price")


def test_before_a_draft_a_shadow_is_asked_as_the_policy_was() -> None:
    assert decide(Routing(Skipping()), UNDRAFTED) == Decision(action=Action.ESCALATE, reason="draft_below_price")
    assert decide(routing("large-only"), UNDRAFTED) == Decision(action=Action.ESCALATE, reason="large_only")
    assert decide(fitted(), replace(UNDRAFTED, scoring=None)) == decide(THRESHOLD, UNDRAFTED)
    skipped = decide(THRESHOLD, UNDRAFTED)
    assert isinstance(skipped, Skipped)
    assert skipped.reason is Skip.NO_DRAFT


class Numeric(Policy):
    """Returns numbers of numpy, finite or not."""

    name: ClassVar[str] = "numeric"
    number: float = 0.5
    propensity: float = 1.0

    def decide(self, observation: Observation) -> Decision:
        number = np.float32(self.number)
        numbers: dict[str, Any] = {"belief": number}
        return Decision(
            action=Action.ACCEPT, reason="sure", value=number, numbers=numbers, propensity=self.propensity  # type: ignore[arg-type]
        )  # fmt: skip


def test_numbers_of_a_shadow_become_plain_ones() -> None:
    decision = decide(Routing(Numeric()))
    assert isinstance(decision, Decision)
    assert [type(each) for each in (decision.value, decision.numbers["belief"])] == [float, float]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_cannot_be_stored_is_a_crash_of_the_shadow(number: float) -> None:
    policy = Numeric.model_construct(number=number)
    skipped = decide(Routing(policy))
    assert isinstance(skipped, Skipped)
    assert skipped.reason is Skip.CRASHED
