"""Roles that are away: a problem that needs one waits, or goes on without it as its options say."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from shared.domain.absences import Absence
from shared.domain.decisions import Decider
from shared.domain.options import WhenLargeAway
from shared.domain.roles import Author, WorkerRole
from shared.domain.status import Failure, Status
from shared.machine.booking import drop_pending
from shared.machine.deciding import decide_ready, escalate_undrafted
from shared.machine.ending import fail
from shared.machine.requesting import due, renew_request, request_steps
from shared.machine.state import RolesAway, State, needed_roles


def hear_away(state: State, event: RolesAway, *, policy: Decider, now: datetime) -> State:
    """Note which of the roles that a problem needs are away, and which that it waited for are back."""
    if state.status is not Status.RUNNING:
        return state
    absences = _note(state, event, now=now)
    if absences == state.absences:
        return state
    waited, state = bool(state.waits_for), state.evolve(absences=absences)
    bridged = _bridge(state, policy=policy, now=now)
    if bridged is not state or not waited or state.waits_for:
        return bridged
    return _resume(state, now=now)


def hold(state: State, *, now: datetime) -> State:
    """Set when a problem that waits for roles is due: once its patience with one of them is over, if it ever is."""
    waits_for = state.waits_for
    if not waits_for:
        return state
    ends = [_patience_ends(state, each) for each in waits_for if _is_limited(state, each)]
    # After the end of its patience it is looked at again in any case: nobody may have known then what is away.
    due_at = min((end if end > now else due(state, now) for end in ends), default=None)
    return state if due_at == state.due_at else state.evolve(due_at=due_at)


def _note(state: State, event: RolesAway, *, now: datetime) -> tuple[Absence, ...]:
    relevant = needed_roles(state.request, state.options.plan) | {each.role for each in state.absences}
    noted = (Absence(role=role, since=event.since[role]) for role in sorted(relevant) if role in event.since)
    return tuple(
        replace(each, is_bridged=_may_bridge(state, each) and now >= _patience_ends(state, each)) for each in noted
    )


def _may_bridge(state: State, absence: Absence) -> bool:
    return state.options.bridging.bridges(absence.role, state.options.plan)


def _is_limited(state: State, absence: Absence) -> bool:
    return _may_bridge(state, absence) and not absence.is_bridged


def _patience_ends(state: State, absence: Absence) -> datetime:
    return absence.since + timedelta(seconds=state.options.bridging.away_patience_s)


def _bridge(state: State, *, policy: Decider, now: datetime) -> State:
    """Go on without roles whose absence a problem no longer waits for."""
    bridging = state.options.bridging
    if state.request is not None and state.request.author is Author.LARGE and state.bridges(WorkerRole.LARGE):
        if bridging.when_large_away is WhenLargeAway.FAIL:
            detail = (
                f"The large model was away for {bridging.away_patience_s:g} s, and the problem was not to wait longer."
            )
            return fail(state, Failure(code="large_away", detail=detail), now=now)
        state = request_steps(state, author=Author.SMALL, now=now)
    needed = needed_roles(state.request, state.options.plan)
    if not any(state.bridges(role) for role in needed):
        return state
    escalated = escalate_undrafted(state, policy=policy, now=now)
    if escalated is not state or WorkerRole.PRM not in needed or not state.bridges(WorkerRole.PRM):
        return escalated
    return _accept_unscored(state, policy=policy, now=now)


def _accept_unscored(state: State, *, policy: Decider, now: datetime) -> State:
    """Decide the drafts that are here without their scores, and request what follows without scores."""
    pending = tuple(each if each.is_scored else replace(each, goes_unscored=True) for each in state.pending)
    state = decide_ready(state.evolve(pending=pending, request=None), policy=policy, now=now)
    if state.status is not Status.RUNNING or state.request is not None:
        return state
    return request_steps(drop_pending(state).evolve(oldest_request=state.request_count), now=now)


def _resume(state: State, *, now: datetime) -> State:
    """Go on once all roles are back: what was queued for them comes, and what they lost is requested again."""
    request = state.request
    is_lost = request is None or request.is_lost or request.failed_at_step is not None
    if is_lost and not state.chain:
        return renew_request(state, now=now)
    return state.evolve(due_at=due(state, now))
