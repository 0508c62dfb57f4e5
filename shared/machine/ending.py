"""Ending a problem: once, with its answer and verdict, or with the reason why there is none."""

from __future__ import annotations

from datetime import datetime

from shared.domain.status import Failure, Status, StopReason
from shared.domain.text import boxed_answer, join_steps
from shared.domain.verdict import verdict_of
from shared.machine.booking import drop_pending
from shared.machine.state import State


def succeed(state: State, reason: StopReason, *, now: datetime) -> State:
    """End a problem with the trajectory that it has."""
    answer = boxed_answer(join_steps([step.text for step in state.steps]))
    verdict = verdict_of(answer, state.reference)
    ended = drop_pending(state).evolve(stop_reason=reason, answer=answer, verdict=verdict)
    return _close(ended, Status.SUCCEEDED, now=now)


def fail(state: State, failure: Failure, *, now: datetime) -> State:
    """End a problem as failed; a problem that has ended stays as it is."""
    return state if state.status.is_final else end_early(state.evolve(failure=failure), Status.FAILED, now=now)


def exhaust(state: State, reason: str, *, now: datetime) -> State:
    """Fail a problem that has used up its attempts."""
    detail = f"Step {len(state.steps)} failed in {state.options.max_attempts} attempts, {reason.removesuffix('.')}."
    return fail(state, Failure(code="attempts_exhausted", detail=detail), now=now)


def is_last_attempt(state: State) -> bool:
    """Tell whether no further attempt follows the present one."""
    return state.attempts + 1 >= state.options.max_attempts


def end_early(state: State, status: Status, *, now: datetime) -> State:
    """End a problem while work is out; raising the epoch makes its results late."""
    return _close(drop_pending(state).evolve(epoch=state.epoch + 1), status, now=now)


def _close(state: State, status: Status, *, now: datetime) -> State:
    return state.evolve(status=status, request=None, due_at=None, finished_at=now)
