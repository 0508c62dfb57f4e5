"""Hearing events from workers: drafts, scores, failures and cancellations."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from shared.domain.decisions import Decider
from shared.domain.drafts import Draft, ScoredDraft
from shared.domain.roles import WorkerRole
from shared.domain.status import CONTEXT_FULL, CRASHES_WORKERS, Failure, Status, StopReason
from shared.errors import Fault
from shared.machine.booking import book_scoring, book_unfinished, waste
from shared.machine.commands import complete
from shared.machine.deciding import decide_before_draft, decide_ready
from shared.machine.ending import exhaust, fail, is_last_attempt, succeed
from shared.machine.requesting import backoff, due, request_ahead, request_steps
from shared.machine.state import State
from shared.messages import PrefixMissing, ScoreSteps, StepsGenerated, StepsScored, WorkCancelled, WorkFailed

RETRY_DELAY_S = 1.0
"""Seconds before a step is requested again after a retryable failure; doubles with each attempt."""

MAX_WORKER_FAULTS = 10
"""Number of times in a row that a step may fail through a worker's own fault before it counts as a failed attempt.

A worker that fails so becomes unfit and takes no further commands, so this many failures take as many workers."""

MAX_FAULT_DOUBLINGS = 5
"""Maximum number of times that the delay after a worker's own fault doubles: to 32 s, so ten take three minutes."""


def hear_drafts(state: State, event: StepsGenerated | StepsScored, *, policy: Decider, now: datetime) -> State:
    """Book the cost of an event, add its drafts to the pending ones, and decide those whose turn it is."""
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
    if not _is_current(state, event.epoch):
        return waste(state, event.drafts)
    if isinstance(event, StepsScored):
        state = _fill_scores(state, event)
    goes_unscored = scoring is None and state.request is not None and state.request.skips_prm
    for draft, score in zip(event.drafts, scores, strict=True):
        offered = ScoredDraft(draft=draft, score=score, scoring=scoring, goes_unscored=goes_unscored)
        state = _add_pending(state, offered)
    return _decide(state, policy=policy, now=now)


def hear_failure(state: State, event: WorkFailed, *, policy: Decider, now: datetime) -> State:
    """Book what a failed command had used, and react if the problem waits for the command.

    A failure ahead of the trajectory's end is not judged yet. An escalation may still discard its steps; the machine
    requests them again when the next event arrives.
    """
    if event.id in state.booked:
        return state
    state = _lose(_book_unfinished(state, event), event.drafts)
    if not _is_current(state, event.epoch) or not _concerns_request(state, event):
        return state
    state = state.evolve(booked=state.booked | {event.id})
    if state.chain or event.step > len(state.steps):
        state = _mark_failed(state, event.step)
        if not state.options.plan.decides_whole:
            return state
        # No draft may follow, so a plan that waits for all of them decides those that are here. If their scores are
        # missing, it goes on waiting for these: another request now would be one that nobody counts.
        decided = decide_ready(state, policy=policy, now=now)
        return state if _place_of(decided) == _place_of(state) else _go_on(state, decided, policy=policy, now=now)
    return _judge_failure(state, event, now=now)


def hear_cancelled(state: State, event: WorkCancelled) -> State:
    """Book what a cancelled command had used."""
    return state if event.id in state.booked else _book_unfinished(state, event)


def hear_missing(state: State, event: PrefixMissing) -> State:
    """Book the drafts of a scoring that nobody can complete; a command that can be completed changes nothing."""
    command = event.command
    if not isinstance(command, ScoreSteps) or complete(state, command) is not None:
        return state
    return _lose(state, command.drafts)


def _decide(state: State, *, policy: Decider, now: datetime) -> State:
    """Decide what can be decided, and request what follows."""
    return _go_on(state, decide_ready(state, policy=policy, now=now), policy=policy, now=now)


def _go_on(before: State, state: State, *, policy: Decider, now: datetime) -> State:
    """Request what follows after drafts were heard or decided."""
    if state.status.is_final:
        return state
    if _place_of(state) != _place_of(before):
        state = state.evolve(attempts=0)
    state = decide_before_draft(state.evolve(due_at=due(state, now)), policy=policy, now=now)
    return state if state.status.is_final else request_ahead(state, now=now)


def _place_of(state: State) -> tuple[int, int]:
    return len(state.steps), state.epoch


def _mark_failed(state: State, step: int) -> State:
    """Mark the first step that the present request will not bring."""
    request = state.request
    if request is None:
        return state
    known = step if request.failed_at_step is None else min(step, request.failed_at_step)
    return state.evolve(request=replace(request, failed_at_step=known))


def _judge_failure(state: State, event: WorkFailed, *, now: datetime) -> State:
    """Fail on a failure of the input; after another one wait a moment before the steps are requested again.

    A solution that has outgrown a model's context ends with the steps that it has, as at any other limit.
    """
    if event.code == CONTEXT_FULL and state.steps:
        return succeed(state, StopReason.TOKEN_LIMIT, now=now)
    if event.fault is Fault.WORKER and (lost := _lose_request(state, now=now)) is not None:
        return lost
    if not event.retryable:
        return fail(state, Failure(code=event.code, detail=event.detail), now=now)
    if is_last_attempt(state):
        return exhaust(state, f"the last time because: {event.detail}", now=now)
    return state.evolve(due_at=now + timedelta(seconds=RETRY_DELAY_S * backoff(state)))


def _lose_request(state: State, *, now: datetime) -> State | None:
    """Have the steps requested again without counting an attempt; `None` after `MAX_WORKER_FAULTS` times in a row."""
    request = (state if state.request is not None else request_steps(state, now=now)).request
    assert request is not None, "it was just issued"
    if request.worker_faults >= MAX_WORKER_FAULTS:
        return None
    delay_s = RETRY_DELAY_S * 2 ** min(request.worker_faults, MAX_FAULT_DOUBLINGS)
    lost = replace(request, is_lost=True, worker_faults=request.worker_faults + 1)
    count = max(state.request_count, request.number + 1)
    return state.evolve(request=lost, request_count=count, due_at=now + timedelta(seconds=delay_s))


def _is_current(state: State, epoch: int) -> bool:
    return epoch == state.epoch and state.status is Status.RUNNING


def _book_unfinished(state: State, event: WorkFailed | WorkCancelled) -> State:
    if event.unfinished is None:
        return state
    return book_unfinished(state.evolve(booked=state.booked | {event.id}), event.unfinished)


def _fill_scores(state: State, event: StepsScored) -> State:
    """Give large steps the scores that arrived with the first draft after them."""
    first = event.drafts[0]
    if first.index != len(state.steps) or first.prefix_digest != state.digest:
        return state
    steps = list(state.steps)
    for step, score in zip(reversed(state.steps), reversed(event.prefix_scores), strict=False):
        if step.score is None:
            steps[step.index] = replace(step, score=score)
    return state.evolve(steps=tuple(steps))


def _add_pending(state: State, offered: ScoredDraft) -> State:
    """Add a draft to the pending ones, unless it is a duplicate or too late.

    Of two drafts for one place the first stays, because steps after it may already be requested; a second one with the
    same text only contributes its score. No model repeats itself exactly, so a draft with the same id, of a command
    that was published twice, may have another text or prefix. It is ignored, and its id is booked once.
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
    return draft.index, draft.prefix_digest


def _concerns_request(state: State, event: WorkFailed) -> bool:
    """Tell whether a failure concerns work that the problem waits for, not a copy of finished or abandoned work."""
    if event.code == CRASHES_WORKERS and event.step >= len(state.steps):
        return True  # It would do so under any number.
    if event.role is WorkerRole.PRM:
        return event.request_number >= state.oldest_request and event.step >= len(state.steps)
    return state.request is not None and event.request_number == state.request.number


def _lose(state: State, drafts: tuple[Draft, ...]) -> State:
    """Book drafts whose scoring failed as wasted; a draft that was scored all the same stays.

    A request that continues a lost draft would leave a gap, so it is abandoned too.
    """
    scored = {each.draft.id for each in state.pending if each.is_scored}
    lost = tuple(draft for draft in drafts if draft.id not in scored | state.booked)
    if not lost:
        return state
    ids = {draft.id for draft in lost}
    state = waste(state.evolve(pending=tuple(each for each in state.pending if each.draft.id not in ids)), lost)
    leaves_gap = state.request is not None and state.request.from_step > len(state.steps) + len(state.chain)
    return state.evolve(request=None) if leaves_gap else state
