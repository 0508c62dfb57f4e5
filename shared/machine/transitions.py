"""The transitions of a problem: `apply` one event to its state.

Pure, as `next_commands` is. Messages may arrive twice, late, out of order or never, and the outcome is the same:

- Twice: every draft and every event has a derived id, and an id is booked once.
- Late: results of an older epoch are never applied; their tokens are booked as wasted.
- Out of order: a draft waits in `pending` for its turn. It names the prefix that it continues, so a draft of another
  prefix is never mistaken for one of this trajectory.
- Never: the problem's request has a deadline; `RequestOverdue` requests the steps again, a limited number of times.

`next_commands` reads nothing but the state, so commands that were lost between commit and publication are derived again
from what was committed.
"""

from __future__ import annotations

from datetime import datetime
from typing import assert_never

from shared.domain.decisions import Decider
from shared.domain.status import Failure, Status
from shared.machine.deciding import decide_before_draft
from shared.machine.ending import end_early, fail
from shared.machine.hearing import hear_cancelled, hear_drafts, hear_failure
from shared.machine.requesting import request_again, request_steps
from shared.machine.state import (
    CancelRequested,
    ControlEvent,
    DeadlinePassed,
    ProblemAdmitted,
    RequestOverdue,
    State,
)
from shared.messages import ProblemEvent, StepsGenerated, StepsScored, WorkCancelled, WorkFailed


def apply(  # noqa: PLR0911 - one case, one return
    state: State, event: ProblemEvent | ControlEvent, *, policy: Decider, now: datetime
) -> State:
    """Apply one event; an event that changes nothing returns the very same state.

    Total: no event that decodes raises.

    Args:
        state: The state before. `booked` holds at least those ids of the event that were booked before.
        event: What happened.
        policy: The policy of the problem.
        now: The time at which the event is applied.
    """
    match event:
        case ProblemAdmitted():
            if state.status is not Status.QUEUED:
                return state
            state = state.evolve(status=Status.RUNNING, started_at=now)
            escalated = decide_before_draft(state, policy=policy, now=now)
            return request_steps(state, now=now) if escalated is state else escalated
        case CancelRequested():
            return state if state.status.is_final else end_early(state, Status.CANCELLED, now=now)
        case DeadlinePassed():
            deadline = state.options.deadline_at
            if state.status.is_final or deadline is None or now < deadline:
                return state
            return end_early(state, Status.EXPIRED, now=now)
        case RequestOverdue():
            return request_again(state, now=now)
        case WorkFailed():
            return hear_failure(state, event, policy=policy, now=now)
        case WorkCancelled():
            return hear_cancelled(state, event)
        case StepsGenerated() | StepsScored():
            return hear_drafts(state, event, policy=policy, now=now)
        case _:
            assert_never(event)


def give_up(state: State, *, detail: str, now: datetime) -> State:
    """Fail a problem that the orchestrator cannot work on: its row or its policy is unreadable, or applying it raised.

    Needs no policy. The machine raises the epoch, so work that is out is cancelled as for any early end.
    """
    return fail(state, Failure(code="unreadable", detail=detail), now=now)
