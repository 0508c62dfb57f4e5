"""Requesting steps: what the problem waits for, how far ahead, and when it counts as overdue."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from shared.domain.roles import Author, WorkerRole
from shared.domain.status import Status
from shared.machine.booking import drop_pending
from shared.machine.ending import ending_with, exhaust, is_last_attempt
from shared.machine.state import State, StepRequest
from shared.messages import MAX_PREFIX_BYTES

MAX_DOUBLINGS = 10
"""Maximum number of times that a wait doubles, so that any number of attempts stays within the calendar."""

MAX_STEP_WAIT_S = 3600.0
"""Maximum number of seconds that a step may take, however often it was requested. Its worker holds the command."""


def request_steps(
    state: State,
    *,
    now: datetime,
    author: Author | None = None,
    from_step: int | None = None,
    max_steps: int | None = None,
) -> State:
    """Request steps; by default all that the plan and the lookahead allow, from the end of the trajectory on."""
    start = len(state.steps) if from_step is None else from_step
    author = author or next_author(state)
    skips_prm = author is Author.SMALL and state.options.plan.scores and state.bridges(WorkerRole.PRM)
    request = StepRequest(
        author=author,
        from_step=start,
        max_steps=min(max_steps or _max_undecided(state, author), state.options.limits.max_steps - start),
        number=state.request_count,
        issued_at=now,
        expires_at=due(state, now),
        unscored_steps=_unscored(state) if author is Author.SMALL and start == len(state.steps) else 0,
        large_left=state.large_left if author is Author.LARGE else None,
        skips_prm=skips_prm,
    )
    return state.evolve(request=request, request_count=state.request_count + 1, due_at=request.expires_at)


def request_large(state: State, *, now: datetime) -> State:
    """Request the next step from the large model, or all further ones if it takes over."""
    return request_steps(state, author=Author.LARGE, max_steps=None if state.options.plan.takes_over else 1, now=now)


def request_ahead(state: State, *, now: datetime) -> State:
    """Request more steps once all requested ones have arrived, while fewer than `lookahead + 1` drafts are undecided.

    With lookahead 0 the next draft is requested when the last one is decided. Otherwise its continuation is requested
    while scores are still on their way, so that the small model stays busy.
    """
    if state.is_escalating and state.request is not None and len(state.steps) < state.request.end:
        return state
    chain = state.chain
    known_end = len(state.steps) + len(chain)
    if state.request is not None and known_end < state.request.end:
        return state
    room = _max_undecided(state, next_author(state)) - len(chain)
    if room <= 0 or (chain and is_complete(state)):
        return state.evolve(request=None)
    return request_steps(state, from_step=known_end, max_steps=room, now=now)


def request_again(state: State, *, now: datetime) -> State:
    """Request overdue steps once more, from the first undecided one on, or fail after the last attempt.

    A problem that waits for a role is not overdue. A request that a worker lost through its own fault is no attempt.
    """
    if state.status is not Status.RUNNING or state.due_at is None or now < state.due_at or state.waits_for:
        return state
    if state.request is not None and state.request.is_lost:
        return renew_request(state, now=now)
    if is_last_attempt(state):
        is_large = state.request is not None and state.request.author is Author.LARGE
        small = "small model or the PRM" if state.options.plan.scores else "small model"
        who = "large model" if is_large else small
        return exhaust(state, f"the last time because the {who} did not answer", now=now)
    return renew_request(state.evolve(attempts=state.attempts + 1), now=now)


def renew_request(state: State, *, now: datetime) -> State:
    """Abandon the present request, and request steps from the first undecided one on."""
    was_escalating, lost = state.is_escalating, state.request
    state = drop_pending(state).evolve(oldest_request=state.request_count)
    renew = request_large if was_escalating and state.can_use_large() else request_steps
    state = renew(state, now=now)
    if lost is None or not lost.is_lost or state.request is None:
        return state
    return state.evolve(request=replace(state.request, worker_faults=lost.worker_faults))


def due(state: State, now: datetime) -> datetime:
    """Return when a request that is issued now becomes overdue."""
    return now + timedelta(seconds=min(state.options.step_timeout_s * backoff(state), MAX_STEP_WAIT_S))


def backoff(state: State) -> int:
    """Return the factor by which waits grow with the attempts on the same step."""
    return int(2 ** min(state.attempts, MAX_DOUBLINGS))


def is_oversized(state: State, *more: str) -> bool:
    """Tell whether the prefix that a further command would carry is as large as a message may be."""
    return state.text_bytes(*more) >= MAX_PREFIX_BYTES


def is_complete(state: State) -> bool:
    """Tell whether the pending drafts, of which there is one at least, already take the solution to its end."""
    chain, limits = state.chain, state.options.limits
    *ahead, last = chain
    return (
        ending_with(state, last.draft, ahead=ahead) is not None
        or last.draft.index + 1 >= limits.max_steps
        or state.tokens + sum(each.draft.length for each in chain) >= limits.max_tokens
        or is_oversized(state, *(each.draft.text for each in chain))
    )


def _unscored(state: State) -> int:
    """Count the large steps at the end of the trajectory that the PRM has not scored."""
    count = 0
    for step in reversed(state.steps):
        if step.author is Author.SMALL or step.score is not None:
            break
        count += 1
    return count if state.options.plan.scores else 0


def next_author(state: State) -> Author:
    """Return who writes where nothing else decides it."""
    writes_large = not state.options.plan.drafts or state.has_taken_over
    return Author.LARGE if writes_large and state.can_use_large() else Author.SMALL


def _max_undecided(state: State, author: Author) -> int:
    """Return the maximum number of undecided drafts of an author."""
    options, plan = state.options, state.options.plan
    if author is Author.LARGE:
        # With a budget one at a time: each command must be bounded by what the one before it has left.
        return options.limits.max_steps if plan.large_budget is None else 1
    if plan.skips_drafts or (plan.scores and state.bridges(WorkerRole.PRM) and not plan.decides_whole):
        return 1  # What is requested without scores is as little as possible, so that the PRM is back at the next step.
    if plan.decides_whole or options.lookahead is None:
        return options.limits.max_steps
    return options.lookahead + 1
