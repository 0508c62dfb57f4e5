"""The transitions of a problem: `apply` one event to its state.

Pure, as `next_commands` is. Messages may arrive twice, late, out of order or never, and the outcome is the same:

- Twice: every draft and every event has a derived id, and an id is booked once.
- Late: results of an older epoch are never applied; their tokens are booked as wasted.
- Out of order: a draft waits in `pending` for its turn. It names the prefix that it continues, so a draft of another
  prefix is never mistaken for one of this trajectory.
- Never: the problem's request has a deadline; `RequestOverdue` requests the steps again, a limited number of times.
  `RolesAway` has a problem wait while a role that it needs is away.

`next_commands` reads nothing but the state, so commands that were lost between commit and publication are derived again
from what was committed.
"""

from __future__ import annotations

from datetime import datetime
from typing import assert_never

from shared.domain.decisions import Decider
from shared.domain.status import Failure, Status
from shared.machine.absences import hear_away, hold
from shared.machine.deciding import decide_before_draft
from shared.machine.ending import end_early, fail
from shared.machine.hearing import hear_cancelled, hear_drafts, hear_failure, hear_missing
from shared.machine.requesting import request_again, request_steps
from shared.machine.state import (
    CancelRequested,
    ControlEvent,
    DeadlinePassed,
    ProblemAdmitted,
    RequestOverdue,
    RolesAway,
    State,
)
from shared.messages import PrefixMissing, ProblemEvent, StepsGenerated, StepsScored, WorkCancelled, WorkFailed


def apply(state: State, event: ProblemEvent | ControlEvent, *, policy: Decider, now: datetime) -> State:
    """Apply one event; an event that changes nothing returns the very same state.

    Total: no event that decodes raises. A problem whose deadline has passed expires first, whatever the event: what
    arrives at or after the deadline is booked and solves nothing.

    Args:
        state: The state before. `booked` holds at least those ids of the event that were booked before.
        event: What happened.
        policy: The policy of the problem.
        now: The time at which the event is applied.
    """
    return hold(_apply(state, event, policy=policy, now=now), now=now)


def _apply(  # noqa: C901, PLR0911 - one case, one return
    state: State, event: ProblemEvent | ControlEvent, *, policy: Decider, now: datetime
) -> State:
    deadline_at = state.options.deadline_at
    is_late = deadline_at is not None and now >= deadline_at and not state.status.is_final
    if is_late and not isinstance(event, CancelRequested):
        state = end_early(state, Status.EXPIRED, now=now)
    match event:
        case ProblemAdmitted():
            return _start(state, policy=policy, now=now)
        case CancelRequested():
            return state if state.status.is_final else end_early(state, Status.CANCELLED, now=now)
        case DeadlinePassed():
            return state
        case RequestOverdue():
            return request_again(state, now=now)
        case RolesAway():
            return hear_away(state, event, policy=policy, now=now)
        case WorkFailed():
            return hear_failure(state, event, policy=policy, now=now)
        case WorkCancelled():
            return hear_cancelled(state, event)
        case PrefixMissing():
            return hear_missing(state, event)
        case StepsGenerated() | StepsScored():
            return hear_drafts(state, event, policy=policy, now=now)
        case _:
            assert_never(event)


def _start(state: State, *, policy: Decider, now: datetime) -> State:
    if state.status is not Status.QUEUED:
        return state
    state = state.evolve(status=Status.RUNNING, started_at=now)
    escalated = decide_before_draft(state, policy=policy, now=now)
    return request_steps(state, now=now) if escalated is state else escalated


def give_up(state: State, *, detail: str, now: datetime) -> State:
    """Fail a problem that the orchestrator cannot work on: its row or its policy is unreadable, or applying it raised.

    Needs no policy. The machine raises the epoch, so work that is out is cancelled as for any early end.
    """
    return fail(state, Failure(code="unreadable", detail=detail), now=now)
