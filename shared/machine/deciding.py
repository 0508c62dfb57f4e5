"""Deciding drafts in the order of the trajectory, and extending it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from shared.domain.decisions import Action, DecidedBy, Decider, Decision, DecisionRecord, Observation
from shared.domain.drafts import Draft, Finish, ScoredDraft
from shared.domain.options import WhenPrmAway
from shared.domain.roles import Author, WorkerRole
from shared.domain.status import Failure, Status, StopReason
from shared.domain.steps import Step
from shared.domain.text import extend_digest, prefix_digest
from shared.domain.thoughts import is_thought
from shared.machine.booking import book_discarded, book_kept, drop_pending, waste
from shared.machine.ending import ending_with, fail, succeed
from shared.machine.requesting import is_complete, is_oversized, next_author, request_large, request_steps
from shared.machine.state import State

_MODEL_ENDED = Decision(action=Action.ACCEPT, reason="model_ended")
"""For a model that ended, or had no words to add to an answer box."""

Chosen = TypeVar("Chosen", bound=Decision | None)


def decide_ready(state: State, *, policy: Decider, now: datetime) -> State:
    """Decide drafts for as long as the next one has arrived and, if the plan needs it, has its score."""
    while state.status is Status.RUNNING:
        turn = [each for each in state.pending if each.draft.index == len(state.steps)]
        ready = next((each for each in turn if each.draft.prefix_digest == state.digest), None)
        strays = tuple(each.draft for each in turn if each is not ready)
        state = waste(state.evolve(pending=tuple(p for p in state.pending if p.draft not in strays)), strays)
        if ready is None or not _is_decidable(state, ready):
            return state
        take = _take_large if ready.draft.author is Author.LARGE else _take_small
        state = take(state, ready, policy=policy, now=now)
    return state


def decide_before_draft(state: State, *, policy: Decider, now: datetime) -> State:
    """Escalate the next step before it is requested, by rule or because a policy that skips drafts does."""
    is_waiting = state.request is not None and len(state.steps) < state.request.end
    if is_waiting or state.chain or not state.can_use_large():
        return state
    if (bridged := escalate_undrafted(state, policy=policy, now=now)) is not state:
        return bridged
    if not state.options.plan.skips_drafts:
        return state
    observation = _observe(state, None)
    decision = _ask(policy, policy.before_draft, observation)
    if decision is None:
        return state
    if isinstance(decision, Failure):
        return fail(state, decision, now=now)
    state = _record(state, None, observation, decision, decided_by=DecidedBy.POLICY, policy=policy, now=now)
    return _escalate(state, now=now)


def escalate_undrafted(state: State, *, policy: Decider, now: datetime) -> State:
    """Escalate the next step without a draft, by rule, if no worker is there to draft it or to score the draft."""
    decision = _rule_without_draft(state)
    if decision is None or next_author(state) is Author.LARGE or not state.can_use_large():
        return state
    observation = _observe(state, None)
    state = _record(state, None, observation, decision, decided_by=DecidedBy.RULE, policy=policy, now=now)
    return _escalate(state, now=now)


def _rule_without_draft(state: State) -> Decision | None:
    options = state.options
    if state.bridges(WorkerRole.SMALL):
        return Decision(action=Action.ESCALATE, reason="small_away")
    if not options.plan.scores or not state.bridges(WorkerRole.PRM):
        return None
    is_escalating = options.bridging.when_prm_away is WhenPrmAway.ESCALATE
    return Decision(action=Action.ESCALATE, reason="prm_away") if is_escalating else None


def _is_decidable(state: State, ready: ScoredDraft) -> bool:
    if ready.draft.author is Author.LARGE:
        return True
    plan = state.options.plan
    if not plan.decides_whole:
        return _is_judged(ready) or not plan.scores
    chain, request = state.chain, state.request
    # After a failure no more drafts arrive, until those that are here are decided. Without a request all had arrived
    # before, so the rest was lost on the way to its scores.
    is_cut = request is None or request.failed_at_step == len(state.steps) + len(chain)
    return (is_cut or is_complete(state)) and all(_is_judged(each) for each in chain)


def _is_judged(ready: ScoredDraft) -> bool:
    return ready.is_scored or ready.goes_unscored or ready.draft.is_degenerate


def _take_small(state: State, ready: ScoredDraft, *, policy: Decider, now: datetime) -> State:
    """Decide on a draft: by rule if there is nothing to judge or no choice, otherwise by the policy."""
    draft = ready.draft
    if (foreign := _foreign(policy, ready)) is not None:
        return fail(state, foreign, now=now)
    needed, observation = _rewrite_tokens(state, draft), _observe(state, ready)
    ruled = _rule(state, ready)
    decided_by = DecidedBy.POLICY if ruled is None else DecidedBy.RULE
    decision = _ask(policy, policy.decide, observation) if ruled is None else ruled
    if isinstance(decision, Failure):
        return fail(state, decision, now=now)
    state = _without(state, ready)
    might_escalate = decision.action is Action.ESCALATE or decision.propensity < 1
    if might_escalate and not state.can_use_large(needed):
        decision, decided_by = _instead_of_escalation(state, needed), DecidedBy.RULE
    state = _record(state, ready, observation, decision, decided_by=decided_by, policy=policy, now=now)
    if decision.action is Action.ACCEPT:
        return _append(state, draft, score=ready.score, now=now)
    return _escalate(book_discarded(state, draft), now=now)


def _escalate(state: State, *, now: datetime) -> State:
    """Have the large model write from here; what was drafted ahead is dropped."""
    state = drop_pending(state).evolve(epoch=state.epoch + 1, attempts=0)
    return request_large(state, now=now)


def _foreign(policy: Decider, ready: ScoredDraft) -> Failure | None:
    """Return the failure if a fitted policy would judge the work of a model that it was not fitted on."""
    models, draft = policy.models, ready.draft
    if models is None:
        return None
    used = [(draft.author.value, draft.model)]
    if ready.scoring is not None:
        used.append(("prm", ready.scoring.model))
    other = models.find_other(used)
    if other is None:
        return None
    detail = f"The policy {policy.version.label} {other}; submit with a version that was fitted on it."
    return Failure(code="policy_models_differ", detail=detail)


def _ask(policy: Decider, decide: Callable[[Observation], Chosen], observation: Observation) -> Chosen | Failure:
    """Return what a policy decides; if it raises, or returns a number that no row can hold, why the problem fails."""
    try:
        decision = decide(observation)
        is_finite = decision is None or decision.is_finite
    except Exception as error:  # noqa: BLE001 - a policy is pure, so it would raise at every attempt
        detail = f"The policy {policy.version.label} raised {type(error).__name__}; submit with another version."
        return Failure(code="policy_crashed", detail=detail)
    if is_finite:
        return decision
    detail = f"The policy {policy.version.label} returned a number that is not finite; submit with other parameters."
    return Failure(code="decision_not_finite", detail=detail)


def _without(state: State, decided: ScoredDraft) -> State:
    return state.evolve(pending=tuple(each for each in state.pending if each is not decided))


def _instead_of_escalation(state: State, needed: int) -> Decision:
    """Return the decision in place of an escalation, certain or drawn by lot, that the large model cannot carry out."""
    if state.can_pay_large(needed):
        return Decision(action=Action.ACCEPT, reason="large_away")
    budget = state.options.plan.large_budget
    return Decision(action=Action.ACCEPT, reason="budget_spent", value=state.large_spent, compared_with=budget)


def _rewrite_tokens(state: State, draft: Draft) -> int:
    """Return the tokens that a rewrite is expected to take: those of the draft, or of the whole solution.

    With less left of the budget, it would be cut off. For a whole solution the number is the same at each of its steps,
    so that all of them are decided alike.
    """
    if state.options.plan.decides_whole:
        return state.tokens + sum(each.draft.length for each in state.chain)
    return max(1, draft.length)


def _rule(state: State, ready: ScoredDraft) -> Decision | None:
    """Return the decision that leaves a policy nothing to judge, if one applies."""
    draft, plan = ready.draft, state.options.plan
    otherwise = Action.ESCALATE if plan.escalates else Action.ACCEPT
    if draft.is_degenerate:
        has_finished = bool(state.steps) and ending_with(state, draft) is StopReason.FINAL_ANSWER
        return _MODEL_ENDED if has_finished else Decision(action=otherwise, reason="degenerate_draft")
    if ready.goes_unscored:
        is_accepting = state.options.bridging.when_prm_away is WhenPrmAway.ACCEPT
        return Decision(action=Action.ACCEPT if is_accepting else otherwise, reason="prm_away")
    if plan.scores and ready.score is None:
        return Decision(action=otherwise, reason="invalid_score")
    return None


def _take_large(state: State, ready: ScoredDraft, *, policy: Decider, now: datetime) -> State:
    """Append a large step. If no draft of it was escalated it is decided here, so that every step has its decision."""
    if (foreign := _foreign(policy, ready)) is not None:
        return fail(state, foreign, now=now)
    observation = _observe(state, None)
    if not state.options.plan.drafts:
        decision = _ask(policy, policy.decide, observation)
        if isinstance(decision, Failure):
            return fail(state, decision, now=now)
        state = _record(state, None, observation, decision, decided_by=DecidedBy.POLICY, policy=policy, now=now)
    elif state.has_taken_over and state.escalation_count <= sum(step.author is Author.LARGE for step in state.steps):
        decision = Decision(action=Action.ESCALATE, reason="taken_over")
        state = _record(state, None, observation, decision, decided_by=DecidedBy.RULE, policy=policy, now=now)
    if _is_cut_by_budget(state, ready.draft):
        # It would end the solution. The draft of the small model is accepted instead: nothing is left to escalate it.
        return request_steps(waste(_without(state, ready), (ready.draft,)), author=Author.SMALL, now=now)
    return _append(_without_drafting(_without(state, ready)), ready.draft, score=None, now=now)


def _without_drafting(state: State) -> State:
    """Abandon a request for drafts in place of a large step that comes all the same: they would not follow it."""
    if state.request is None or state.request.author is Author.LARGE:
        return state
    return drop_pending(state, Author.SMALL).evolve(request=None, oldest_request=state.request_count)


def _is_cut_by_budget(state: State, draft: Draft) -> bool:
    """Tell whether the rest of the budget cut a draft of the large model, before it gave an answer."""
    left = state.large_left
    if left is None or draft.finish is not Finish.LENGTH or draft.length < left:
        return False
    return ending_with(state, draft) is not StopReason.FINAL_ANSWER


def _record(
    state: State,
    ready: ScoredDraft | None,
    observation: Observation,
    decision: Decision,
    *,
    decided_by: DecidedBy,
    policy: Decider,
    now: datetime,
) -> State:
    record = DecisionRecord(
        number=state.decision_count,
        step=len(state.steps),
        epoch=state.epoch,
        observation=observation,
        decision=decision,
        decided_by=decided_by,
        policy=policy.version,
        draft=ready.draft if ready else None,
        scoring=ready.scoring if ready else None,
        decided_at=now,
    )
    return state.evolve(
        decisions=(*state.decisions, record),
        decision_count=state.decision_count + 1,
        escalation_count=state.escalation_count + (decision.action is Action.ESCALATE),
    )


def _observe(state: State, ready: ScoredDraft | None) -> Observation:
    draft = ready.draft if ready else None
    is_last = draft is not None and draft.index + 1 == state.options.limits.max_steps
    return Observation(
        step=len(state.steps),
        score=ready.score if ready else None,
        previous_scores=tuple(step.score for step in state.steps),
        previous_authors=tuple(step.author for step in state.steps),
        previous_tokens=tuple(step.length for step in state.steps),
        following_scores=tuple(each.score for each in state.chain[1:]) if state.options.plan.decides_whole else (),
        draft_tokens=draft.length if draft else None,
        mean_logprob=draft.mean_logprob if draft else None,
        min_logprob=draft.min_logprob if draft else None,
        thoughts=_thoughts(state, draft),
        is_final=is_last or (draft is not None and ending_with(state, draft) is not None),
        large_out=sum(step.length for step in state.steps if step.author is Author.LARGE),
        seed=state.options.sampling.seed,
        question_digest=prefix_digest(state.question, ()),
    )


def _thoughts(state: State, draft: Draft | None) -> tuple[int, ...]:
    """Return the indices of the steps that are thoughts, as far as a policy sees them."""
    texts = [step.text for step in state.steps]
    if state.options.plan.decides_whole:
        texts += [each.draft.text for each in state.chain]
    elif draft is not None:
        texts.append(draft.text)
    return tuple(index for index, text in enumerate(texts) if is_thought(text))


def _append(state: State, draft: Draft, *, score: float | None, now: datetime) -> State:
    """Make a draft the next step of the trajectory, and end the problem if it is the last one."""
    ending = ending_with(state, draft)
    if draft.is_degenerate:
        return _end_without_words(waste(state, (draft,)), draft, ending, now=now)
    step = Step(
        index=draft.index,
        author=draft.author,
        text=draft.text,
        finish=draft.finish,
        tokens=draft.tokens,
        score=score,
        model=draft.model,
        worker=draft.worker,
        waited_ms=draft.waited_ms,
        worked_ms=draft.worked_ms,
        accepted_at=now,
        estimated_tokens=draft.estimated_tokens,
    )
    state = book_kept(state, draft)
    state = state.evolve(steps=(*state.steps, step), digest=extend_digest(state.digest, step.text))
    reason = ending or _limit(state)
    return state if reason is None else succeed(state, reason, now=now)


def _limit(state: State) -> StopReason | None:
    """Return the limit that the trajectory has reached, if any."""
    limits = state.options.limits
    if len(state.steps) >= limits.max_steps:
        return StopReason.MAX_STEPS
    if state.tokens >= limits.max_tokens:
        return StopReason.TOKEN_LIMIT
    return StopReason.SIZE_LIMIT if is_oversized(state) else None


def _end_without_words(state: State, draft: Draft, ending: StopReason | None, *, now: datetime) -> State:
    """End at a draft without words: it becomes no step."""
    if not state.steps:
        detail = f"The {draft.author} model wrote no words at the first step, although it was asked twice."
        return fail(state, Failure(code="no_output", detail=detail), now=now)
    assert ending is not None, "a draft without words ends the solution"
    return succeed(state, ending, now=now)
