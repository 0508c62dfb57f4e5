"""The transitions of a problem: `apply` one event to its state.

Pure, as `next_commands` is. Messages may come twice, late, out of order or never, and the outcome is the same:

- Twice: every draft and every PRM call has a derived id, and an id is booked once.
- Late: an event of an older epoch is never applied; its tokens are booked as wasted.
- Out of order: a draft waits in `pending` until its turn; it names the prefix that it continues, so a draft of
  another prefix is never taken for one of this one.
- Never: what the problem waits for has a deadline; `AskOverdue` asks again, a limited number of times.

Because `next_commands` reads nothing but the state, commands that were lost between commit and publication are
derived again from what was committed.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from shared.domain.booking import book, book_scoring, drop_pending, waste
from shared.domain.state import (
    AskOverdue,
    CancelRequested,
    ControlEvent,
    DeadlinePassed,
    ProblemAdmitted,
    State,
)
from shared.domain.text import boxed_answer, extend_digest, join_steps
from shared.domain.values import (
    CONTEXT_FULL,
    Action,
    Ask,
    Decide,
    Decision,
    DecisionRecord,
    Draft,
    Failure,
    Finish,
    Observation,
    Role,
    ScoredDraft,
    Status,
    Step,
    StopReason,
)
from shared.messages import ProblemEvent, StepsScored, WorkFailed

RETRY_DELAY_S = 1.0
"""Seconds until a step is asked for again after a worker reported a fault that may pass; doubles with each attempt."""

MAX_DOUBLINGS = 10
"""How often a wait doubles at most, so that any number of attempts stays within the calendar."""


def apply(  # noqa: PLR0911 - one case, one return
    state: State, event: ProblemEvent | ControlEvent, *, decide: Decide, now: datetime
) -> State:
    """Apply one event; an event that changes nothing returns the very same state.

    Total: no event that decodes raises.

    Args:
        state: The state before. `booked` holds at least those ids of the event that were booked before.
        event: What happened.
        decide: The policy of the problem.
        now: The time at which it is applied.
    """
    match event:
        case ProblemAdmitted():
            if state.status is not Status.QUEUED:
                return state
            return _ask(state.evolve(status=Status.RUNNING, started_at=now), now=now)
        case CancelRequested():
            return state if state.status.is_final else _end_early(state, Status.CANCELLED, now=now)
        case DeadlinePassed():
            deadline = state.options.deadline_at
            if state.status.is_final or deadline is None or now < deadline:
                return state
            return _end_early(state, Status.EXPIRED, now=now)
        case AskOverdue():
            return _ask_again(state, now=now)
        case WorkFailed():
            return _hear_failure(state, event, now=now)
        case _:
            return _hear_drafts(state, event, decide=decide, now=now)


# --- what was heard -------------------------------------------------------------------------------------------------


def _hear_drafts(state: State, event: ProblemEvent, *, decide: Decide, now: datetime) -> State:
    """Book what the event cost, add its drafts to the pending ones, and decide all whose turn has come."""
    assert not isinstance(event, WorkFailed)
    if event.id in state.booked:
        return state
    state = state.evolve(booked=state.booked | {event.id})
    scores: tuple[float | None, ...] = (None,) * len(event.drafts)
    scoring = None
    if isinstance(event, StepsScored):
        scoring = event.scoring
        if len(event.scores) == len(event.drafts):
            scores = event.scores
        state = book_scoring(state, scoring)
    if event.epoch != state.epoch or state.status is not Status.RUNNING:
        return waste(state, event.drafts)
    if isinstance(event, StepsScored):
        state = _fill_scores(state, event)
    for draft, score in zip(event.drafts, scores, strict=True):
        state = _offer(state, ScoredDraft(draft=draft, score=score, scoring=scoring))
    before = len(state.steps), state.epoch
    state = _decide_ready(state, decide=decide, now=now)
    if state.status.is_final:
        return state
    if (len(state.steps), state.epoch) != before:
        state = state.evolve(attempts=0)
    return _ask_ahead(state.evolve(due_at=_due(state, now)), now=now)


def _fill_scores(state: State, event: StepsScored) -> State:
    """Give large steps the scores that came with the first draft after them."""
    first = event.drafts[0]
    if first.index != len(state.steps) or first.after != state.digest:
        return state
    steps = list(state.steps)
    for step, score in zip(reversed(state.steps), reversed(event.prefix_scores), strict=False):
        if step.score is None:
            steps[step.index] = replace(step, score=score)
    return state.evolve(steps=tuple(steps))


def _offer(state: State, offered: ScoredDraft) -> State:
    """Add a draft to the pending ones, unless it was heard before or comes too late.

    Of two drafts of one place the first heard stays, because more may already have been asked for after it; another
    of the same text only brings its score. No model repeats itself exactly, so even a draft of the same id, made by a
    worker that did the work again, may have another text or another prefix: it is ignored, its id is booked once.
    """
    draft = offered.draft
    if draft.id in state.booked:
        return state
    if draft.index < len(state.steps):
        return waste(state, (draft,))
    twin = next((each for each in state.pending if each.draft.id == draft.id), None)
    known = twin or next((each for each in state.pending if _place(each.draft) == _place(draft)), None)
    if known is None:
        return state.evolve(pending=(*state.pending, offered))
    is_same = (*_place(known.draft), known.draft.text) == (*_place(draft), draft.text)
    if known.is_scored or not offered.is_scored or not is_same:
        return state if twin else waste(state, (draft,))
    pending = tuple(offered if each is known else each for each in state.pending)
    return waste(state.evolve(pending=pending), () if twin else (known.draft,))


def _place(draft: Draft) -> tuple[int, str]:
    return draft.index, draft.after


def _hear_failure(state: State, event: WorkFailed, *, now: datetime) -> State:
    """Give up on a fault that no retry mends; wait a moment before asking again on any other.

    A fault ahead of the trajectory's end is not judged yet, whether the drafts before it are here or on their way: an
    escalation may do away with them, so the steps are asked for again once something more is heard. A solution that has
    outgrown a model's context ends there, as at any other limit, with the steps that it has.
    """
    if event.id in state.booked:
        return state
    state = _lose(state, event.drafts)
    if event.epoch != state.epoch or state.status is not Status.RUNNING or not _is_held_against(state, event):
        return state
    state = state.evolve(booked=state.booked | {event.id})
    if state.chain or event.step > len(state.steps):
        return state.evolve(ask=state.ask and replace(state.ask, broken_off_at=event.step))
    if event.code == CONTEXT_FULL and state.steps:
        return _succeed(state, StopReason.TOKEN_LIMIT, now=now)
    if not event.retryable:
        return _fail(state, Failure(code=event.code, detail=event.detail), now=now)
    return _wait_after(state, event, now=now)


def _wait_after(state: State, event: WorkFailed, *, now: datetime) -> State:
    """Wait a moment before the next attempt, if there is one."""
    if _is_last_attempt(state):
        return _exhaust(state, f"the last time because: {event.detail}", now=now)
    return state.evolve(due_at=now + timedelta(seconds=RETRY_DELAY_S * _backoff(state)))


def _is_held_against(state: State, event: WorkFailed) -> bool:
    """Tell whether a fault is in work that the problem waits for, not in a copy of what was done or given up."""
    if event.role == "prm":
        return event.serial >= state.first_ask and event.step >= len(state.steps)
    return state.ask is not None and event.serial == state.ask.serial


def _lose(state: State, drafts: tuple[Draft, ...]) -> State:
    """Book drafts that were lost on their way to a score, as wasted; one that was scored all the same stays.

    What was asked for after them would follow a gap: it is given up too.
    """
    scored = {each.draft.id for each in state.pending if each.is_scored}
    lost = tuple(draft for draft in drafts if draft.id not in scored | state.booked)
    if not lost:
        return state
    ids = {draft.id for draft in lost}
    state = waste(state.evolve(pending=tuple(each for each in state.pending if each.draft.id not in ids)), lost)
    follows_gap = state.ask is not None and state.ask.from_step > len(state.steps) + len(state.chain)
    return state.evolve(ask=None) if follows_gap else state


# --- deciding -------------------------------------------------------------------------------------------------------


def _decide_ready(state: State, *, decide: Decide, now: datetime) -> State:
    """Decide drafts in the order of the trajectory for as long as the next one is known and scored."""
    while state.status is Status.RUNNING:
        turn = [each for each in state.pending if each.draft.index == len(state.steps)]
        ready = next((each for each in turn if each.draft.after == state.digest), None)
        strays = tuple(each.draft for each in turn if each is not ready)
        state = waste(state.evolve(pending=tuple(p for p in state.pending if p.draft not in strays)), strays)
        if ready is None or not _is_decidable(state, ready):
            return state
        state = state.evolve(pending=tuple(each for each in state.pending if each is not ready))
        if ready.draft.author is Role.LARGE:
            state = _take_large(state, ready, decide=decide, now=now)
        else:
            state = _take_small(state, ready, decide=decide, now=now)
    return state


def _is_decidable(state: State, ready: ScoredDraft) -> bool:
    waits_for_score = ready.draft.author is Role.SMALL and state.options.plan.scores
    return ready.is_scored or ready.draft.is_degenerate or not waits_for_score


def _take_small(state: State, ready: ScoredDraft, *, decide: Decide, now: datetime) -> State:
    """Let the policy decide on a draft, except where there is nothing to decide."""
    draft, plan = ready.draft, state.options.plan
    observation = _observe(state, ready)
    if draft.is_degenerate and draft.finish is Finish.ENDED and state.steps:
        decision = Decision(action=Action.ACCEPT, reason="model_ended")
    elif draft.is_degenerate:
        decision = Decision(action=Action.ESCALATE if plan.escalates else Action.ACCEPT, reason="degenerate_draft")
    elif plan.scores and ready.score is None:
        decision = Decision(action=Action.ESCALATE if plan.escalates else Action.ACCEPT, reason="invalid_score")
    else:
        decision = decide(observation)
    record = DecisionRecord(
        step=draft.index,
        epoch=state.epoch,
        observation=observation,
        decision=decision,
        draft=draft,
        scoring=ready.scoring,
        decided_at=now,
    )
    state = state.evolve(decisions=(*state.decisions, record))
    if decision.action is Action.ACCEPT:
        return _append(book(state, draft, kept=True), draft, score=ready.score, now=now)
    state = drop_pending(book(state, draft, kept=False))
    return _ask(state.evolve(epoch=state.epoch + 1, attempts=0), role=Role.LARGE, max_steps=1, now=now)


def _take_large(state: State, ready: ScoredDraft, *, decide: Decide, now: datetime) -> State:
    """Append a large step; a policy without drafts decides on it here, so that every step has its decision."""
    draft = ready.draft
    if not state.options.plan.drafts:
        observation = _observe(state, None)
        record = DecisionRecord(
            step=draft.index,
            epoch=state.epoch,
            observation=observation,
            decision=decide(observation),
            draft=None,
            scoring=None,
            decided_at=now,
        )
        state = state.evolve(decisions=(*state.decisions, record))
    return _append(book(state, draft, kept=True), draft, score=None, now=now)


def _observe(state: State, ready: ScoredDraft | None) -> Observation:
    draft = ready.draft if ready else None
    return Observation(
        step=len(state.steps),
        score=ready.score if ready else None,
        previous_scores=tuple(step.score for step in state.steps if step.score is not None),
        draft_tokens=draft.tokens if draft else None,
        is_final=draft is not None and (draft.ends_solution or draft.index + 1 == state.options.limits.max_steps),
        large_tokens=state.ledger.large_out,
        seed=state.options.sampling.seed,
    )


def _append(state: State, draft: Draft, *, score: float | None, now: datetime) -> State:
    """Make a draft the next step of the trajectory, and end the problem if it is its last."""
    if draft.is_degenerate:
        if not state.steps:
            detail = f"The {draft.author} model wrote nothing at the first step, although it was asked twice."
            return _fail(state, Failure(code="no_output", detail=detail), now=now)
        reason = StopReason.FINAL_ANSWER if draft.finish is Finish.ENDED else StopReason.DEGENERATE
        return _succeed(state, reason, now=now)
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
    )
    state = state.evolve(steps=(*state.steps, step), digest=extend_digest(state.digest, step.text))
    limits = state.options.limits
    if draft.ends_solution:
        return _succeed(state, StopReason.FINAL_ANSWER, now=now)
    if len(state.steps) >= limits.max_steps:
        return _succeed(state, StopReason.MAX_STEPS, now=now)
    if state.tokens >= limits.max_tokens:
        return _succeed(state, StopReason.TOKEN_LIMIT, now=now)
    return state


# --- asking ---------------------------------------------------------------------------------------------------------


def _ask_ahead(state: State, *, now: datetime) -> State:
    """Ask for more as soon as all that was asked for is known and the window has room.

    The window is `lookahead + 1` undecided drafts: with lookahead 0 the next draft is asked for when the last one is
    decided, otherwise the continuation goes out while scores are still on their way, so that the small model does
    not run dry.
    """
    if state.is_escalating and state.ask is not None and len(state.steps) < state.ask.end:
        return state
    chain = state.chain
    known_end = len(state.steps) + len(chain)
    if state.ask is not None and known_end < state.ask.end:
        return state
    if chain and (chain[-1].draft.ends_solution or chain[-1].draft.is_degenerate):
        return state.evolve(ask=None)
    room = _room(state) - len(chain)
    return _ask(state, from_step=known_end, max_steps=room, now=now) if room > 0 else state.evolve(ask=None)


def _ask_again(state: State, *, now: datetime) -> State:
    """Ask once more for what is overdue, from the first undecided step on, or give up."""
    if state.status is not Status.RUNNING or state.due_at is None or now < state.due_at:
        return state
    if _is_last_attempt(state):
        plan, is_large = state.options.plan, state.ask is not None and state.ask.role is Role.LARGE
        who = "large model" if is_large else "small model or the PRM" if plan.scores else "small model"
        return _exhaust(state, f"the last time because the {who} did not answer", now=now)
    escalating = state.is_escalating
    state = drop_pending(state).evolve(attempts=state.attempts + 1, first_ask=state.asks)
    return _ask(state, role=Role.LARGE, max_steps=1, now=now) if escalating else _ask(state, now=now)


def _ask(
    state: State,
    *,
    now: datetime,
    role: Role | None = None,
    from_step: int | None = None,
    max_steps: int | None = None,
) -> State:
    """Set what a generator is asked for; without arguments, all that the plan and the window allow."""
    start = len(state.steps) if from_step is None else from_step
    role = role or (Role.SMALL if state.options.plan.drafts else Role.LARGE)
    ask = Ask(
        role=role,
        from_step=start,
        max_steps=min(max_steps or _room(state), state.options.limits.max_steps - start),
        serial=state.asks,
        issued_at=now,
        expires_at=_due(state, now),
        unscored=_unscored(state) if role is Role.SMALL and start == len(state.steps) else 0,
    )
    if ask.max_steps < 1:
        return state.evolve(ask=None)
    return state.evolve(ask=ask, asks=state.asks + 1, due_at=ask.expires_at)


def _unscored(state: State) -> int:
    """Count the large steps at the end of the trajectory that the PRM has not scored."""
    count = 0
    for step in reversed(state.steps):
        if step.author is Role.SMALL or step.score is not None:
            break
        count += 1
    return count if state.options.plan.scores else 0


def _room(state: State) -> int:
    """Count the drafts that may be undecided at a time."""
    options = state.options
    if options.lookahead is None or not options.plan.drafts:
        return options.limits.max_steps
    return options.lookahead + 1


def _due(state: State, now: datetime) -> datetime:
    return now + timedelta(seconds=state.options.step_timeout_s * _backoff(state))


def _backoff(state: State) -> int:
    return int(2 ** min(state.attempts, MAX_DOUBLINGS))


# --- ending ---------------------------------------------------------------------------------------------------------


def _succeed(state: State, reason: StopReason, *, now: datetime) -> State:
    state = drop_pending(state)
    answer = boxed_answer(join_steps([step.text for step in state.steps]))
    return _close(state.evolve(stop_reason=reason, answer=answer), Status.SUCCEEDED, now=now)


def _is_last_attempt(state: State) -> bool:
    return state.attempts + 1 >= state.options.max_attempts


def _exhaust(state: State, reason: str, *, now: datetime) -> State:
    detail = f"Step {len(state.steps)} failed in {state.options.max_attempts} attempts, {reason.removesuffix('.')}."
    return _fail(state, Failure(code="attempts_exhausted", detail=detail), now=now)


def _fail(state: State, failure: Failure, *, now: datetime) -> State:
    return _end_early(state.evolve(failure=failure), Status.FAILED, now=now)


def _end_early(state: State, status: Status, *, now: datetime) -> State:
    """End a problem with work still out: the next epoch makes that work unwanted."""
    return _close(drop_pending(state).evolve(epoch=state.epoch + 1), status, now=now)


def _close(state: State, status: Status, *, now: datetime) -> State:
    return state.evolve(status=status, ask=None, due_at=None, finished_at=now)
