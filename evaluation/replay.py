"""Replays a policy over recorded decisions: what it would have done, for as long as the record shows what follows.

A record shows what follows from the actions that were taken, and from no others. So a replay is exact as long as the
policy takes the recorded actions, and ends at the first other one. Where the record explored, the solutions that
follow the policy by chance stand for those that it would have written: each gets the weight with which the record
under-represents it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from shared.domain.decisions import Action, DecidedBy, Decision, Observation
from shared.domain.options import Plan
from shared.domain.roles import WorkerRole
from shared.policies.wrapping import Routing


class LeftOut(StrEnum):
    """Why a problem cannot be replayed."""

    NOT_ENDED = "not_ended"
    """It has not ended, or was cancelled or expired."""
    NO_RECORD = "no_record"
    """It has no decisions, for example because they were dropped after their retention."""
    NO_DRAFTS = "no_drafts"
    """The policy needs drafts, and the recorded one had none written."""
    NO_SCORES = "no_scores"
    """The policy needs PRM scores, and the recorded one had none computed."""
    NO_LOG_PROBABILITIES = "no_log_probabilities"
    """The policy needs log-probabilities, and the recorded one had none reported."""
    NO_WHOLE_SOLUTIONS = "no_whole_solutions"
    """The policy decides whole solutions, and the record has single steps, or the policy has a budget too."""
    OTHER_MODELS = "other_models"
    """The policy was fitted on other models than those that did the work."""
    UNKNOWN_POLICY = "unknown_policy"
    """This version does not know the recorded policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedDecision:
    """A decision as it was stored."""

    number: int
    step: int
    observation: Observation
    decision: Decision
    decided_by: DecidedBy
    models: Mapping[WorkerRole, str]
    """Models of the draft, of its score, and of the large step that follows."""

    @property
    def has_draft(self) -> bool:
        """Whether it decided on a draft."""
        return self.observation.draft_tokens is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedProblem:
    """A problem as it was stored."""

    problem_id: str
    question: str
    """What tells questions apart: a digest, or the text."""
    plan: Plan | None
    """Plan of the recorded policy; `None` if this version does not know it."""
    explores: bool
    """Whether some of its decisions were drawn by lot (`epsilon`)."""
    has_ended: bool
    """Whether it ended with a solution or failed."""
    is_solved: bool | None
    """Whether its answer is right; `None` if there is no reference."""
    large_tokens: int
    lost_large_tokens: int
    """Large tokens in no step, and estimated ones. They count for a budget, and no observation has them."""
    decisions: Sequence[RecordedDecision]

    @property
    def models(self) -> Mapping[WorkerRole, str]:
        """Models that worked on it, as far as the decisions show them."""
        return {role: name for decision in self.decisions for role, name in decision.models.items()}

    @property
    def escalations(self) -> int:
        """Number of decisions to escalate."""
        return sum(each.decision.action is Action.ESCALATE for each in self.decisions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """The first decision at which a policy leaves the record."""

    recorded: RecordedDecision
    decision: Decision | None
    """What the policy decides; `None` if it would have the step drafted, which it was not."""
    is_cut: bool = False
    """Whether it decides the same, and another budget may end the large step at another length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """How a policy follows the record of one problem."""

    problem: RecordedProblem
    left_out: LeftOut | None = None
    """Why it was not replayed."""
    compared: int = 0
    """Number of decisions up to the end, or up to and with the first divergence."""
    divergence: Divergence | None = None
    """`None` if the policy takes all recorded actions."""
    weight: float | None = None
    """Probability of the recorded actions under the policy, divided by that under the recorded one; `None` if the
    record does not explore, or where the policy takes an action that the record could not have taken."""

    @property
    def agrees(self) -> bool:
        """Whether the policy takes all recorded actions, so that its result is the recorded one."""
        return self.left_out is None and self.divergence is None


def replay(routing: Routing, problem: RecordedProblem) -> Replayed:
    """Follow a record with a policy."""
    if (left_out := _left_out(routing, problem)) is not None:
        return Replayed(problem=problem, left_out=left_out)
    compared = 0
    divergence: Divergence | None = None
    weight: float | None = 1.0 if problem.explores else None
    has_escalated = False
    decisions = _once(problem.decisions)
    for place, recorded in enumerate(decisions):
        decision = decide_again(routing, recorded, has_escalated=has_escalated)
        agrees = decision is not None and decision.action is recorded.decision.action
        is_cut = agrees and _may_be_cut(routing.plan, problem, decisions[place : place + 2])
        if divergence is None:
            compared += 1
            if not agrees or is_cut:
                divergence = Divergence(recorded=recorded, decision=decision, is_cut=is_cut)
        weight = None if is_cut else _weigh(weight, recorded, decision)
        if divergence is not None and not weight:
            break
        has_escalated = has_escalated or recorded.decision.action is Action.ESCALATE
    return Replayed(problem=problem, compared=compared, divergence=divergence, weight=weight)


def decide_again(routing: Routing, recorded: RecordedDecision, *, has_escalated: bool) -> Decision | None:
    """Return what a policy decides in place of a recorded decision, as the service would.

    Args:
        routing: The policy with its wrappers.
        recorded: The decision.
        has_escalated: Whether an earlier decision on the problem was to escalate.

    Returns:
        The decision; `None` if the policy would have the step drafted, and it was not.
    """
    if _was_bridged(routing.plan, recorded):
        return recorded.decision
    early = _before_draft(routing, recorded, has_escalated=has_escalated)
    if early is not None or not recorded.has_draft:
        return early
    decision = _rule(routing.plan, recorded) or routing.decide(recorded.observation)
    return _within_budget(routing.plan, recorded, decision)


def _before_draft(routing: Routing, recorded: RecordedDecision, *, has_escalated: bool) -> Decision | None:
    """Return the decision to have the large model write a step without a draft, if the policy takes it."""
    plan, seen = routing.plan, recorded.observation
    mean_tokens = sum(seen.previous_tokens) // max(1, len(seen.previous_tokens))
    if not _has_room(plan, recorded, mean_tokens):
        return None
    undrafted = replace(
        seen, score=None, following_scores=(), draft_tokens=None, mean_logprob=None, min_logprob=None, is_final=False
    )
    if not plan.drafts:
        return routing.decide(undrafted)
    if plan.takes_over and has_escalated:
        return Decision(action=Action.ESCALATE, reason="taken_over")
    return routing.before_draft(undrafted) if plan.skips_drafts else None


def _within_budget(plan: Plan, recorded: RecordedDecision, decision: Decision) -> Decision:
    # The record does not tell what a spent budget overruled, which may have been another rule.
    might_escalate = decision.action is Action.ESCALATE or decision.propensity < 1 or _met_spent_budget(recorded)
    if not might_escalate or _has_room(plan, recorded, recorded.observation.draft_tokens or 1):
        return decision
    spent, budget = _spent(recorded), plan.large_budget
    return Decision(action=Action.ACCEPT, reason="budget_spent", value=spent, compared_with=budget)


def _met_spent_budget(recorded: RecordedDecision) -> bool:
    return recorded.decided_by is DecidedBy.RULE and recorded.decision.reason == "budget_spent"


def _was_bridged(plan: Plan, recorded: RecordedDecision) -> bool:
    """Tell whether a role was away that the policy needs here, so that the rule would have overruled it as well."""
    if recorded.decided_by is not DecidedBy.RULE:
        return False
    needs = {"large_away": True, "prm_away": plan.scores, "small_away": plan.drafts}
    return needs.get(recorded.decision.reason, False)


def _left_out(routing: Routing, problem: RecordedProblem) -> LeftOut | None:
    needs, had = routing.plan, problem.plan
    if had is None:
        return LeftOut.UNKNOWN_POLICY
    reasons = {
        LeftOut.NOT_ENDED: not problem.has_ended,
        LeftOut.NO_RECORD: not problem.decisions,
        LeftOut.NO_DRAFTS: needs.drafts and not had.drafts,
        LeftOut.NO_SCORES: needs.scores and not had.scores,
        LeftOut.NO_LOG_PROBABILITIES: needs.confidence and not had.confidence,
        LeftOut.NO_WHOLE_SOLUTIONS: needs.decides_whole and (not had.decides_whole or needs.large_budget is not None),
        LeftOut.OTHER_MODELS: routing.models is not None
        and any(routing.models.find_other(each.models.items()) for each in problem.decisions),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def _rule(plan: Plan, recorded: RecordedDecision) -> Decision | None:
    """Return the decision that leaves every policy nothing to judge, if the recorded one is of that kind."""
    if recorded.decided_by is not DecidedBy.RULE:
        return None
    reason = recorded.decision.reason
    otherwise = Action.ESCALATE if plan.escalates else Action.ACCEPT
    if reason == "budget_spent" and recorded.observation.score is None:
        # The draft may have had no words, which the record does not show here.
        return Decision(action=otherwise, reason="degenerate_draft")
    if reason == "model_ended":
        return Decision(action=Action.ACCEPT, reason=reason)
    if reason == "degenerate_draft" or (reason == "invalid_score" and plan.scores):
        return Decision(action=otherwise, reason=reason)
    return None


def _has_room(plan: Plan, recorded: RecordedDecision, tokens: int) -> bool:
    return plan.large_budget is None or plan.large_budget - _spent(recorded) >= max(1, tokens)


def _spent(recorded: RecordedDecision) -> float:
    """Return the large-model tokens before a decision; only that of a spent budget counts those in no step."""
    spent = recorded.decision.value if _met_spent_budget(recorded) else None
    return recorded.observation.large_out if spent is None else spent


def _once(decisions: Sequence[RecordedDecision]) -> Sequence[RecordedDecision]:
    """Leave out the second decision on a step that the large model already writes.

    A policy without drafts decides on such a draft where its budget had too little left for a mean step, and once more
    on the large step.
    """
    escalated = {each.step for each in decisions if each.has_draft and each.decision.action is Action.ESCALATE}
    return [each for each in decisions if each.has_draft or each.step not in escalated]


def _may_be_cut(plan: Plan, problem: RecordedProblem, decisions: Sequence[RecordedDecision]) -> bool:
    """Return whether the policy's budget may end a large step at another length than in the record.

    Args:
        plan: Plan of the policy.
        problem: The problem.
        decisions: The decision before the step, and the next one if there is one.
    """
    recorded, *following = decisions
    ours, theirs = plan.large_budget, problem.plan.large_budget if problem.plan else None
    if ours == theirs or recorded.decision.action is Action.ACCEPT:
        return False
    spent = recorded.observation.large_out
    tokens = (following[0].observation.large_out if following else problem.large_tokens) - spent
    # A step that takes all that is left may be cut.
    fits_ours = ours is None or tokens < ours - spent
    fits_theirs = theirs is None or tokens < theirs - spent - problem.lost_large_tokens
    return not (fits_ours and fits_theirs)


def _weigh(weight: float | None, recorded: RecordedDecision, decision: Decision | None) -> float | None:
    """Multiply a weight by the ratio of the probabilities of a recorded action (Precup et al., ICML 2000)."""
    if weight is None:
        return None
    if decision is None:
        return None
    agrees = decision.action is recorded.decision.action
    probability = decision.propensity if agrees else 1 - decision.propensity
    logged = recorded.decision.propensity
    if probability < 1 and logged >= 1:
        return None
    return weight * probability / logged
