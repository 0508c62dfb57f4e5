"""Ending a problem: when, and once, with its answer and verdict, or with the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from shared.domain.drafts import Draft, Finish, ScoredDraft
from shared.domain.endings import REACH, final_answer, find_ending
from shared.domain.status import Failure, Status, StopReason
from shared.domain.verdict import verdict_of
from shared.machine.booking import drop_pending
from shared.machine.state import State


def ending_with(state: State, draft: Draft, *, ahead: Sequence[ScoredDraft] = ()) -> StopReason | None:
    """Return why a draft would end the solution by what it holds, or `None` if the solution goes on.

    Args:
        state: The problem.
        draft: The draft, which continues the trajectory and the drafts ahead of it.
        ahead: Drafts between the trajectory and the draft.
    """
    texts = [step.text for step in state.steps[-REACH:]] + [each.draft.text for each in ahead[-REACH:]]
    return find_ending(draft.text, finish=draft.finish, before=texts, question=state.question)


def succeed(state: State, reason: StopReason, *, now: datetime) -> State:
    """End a problem with the trajectory that it has."""
    texts = [step.text for step in state.steps]
    is_cut = bool(state.steps) and state.steps[-1].finish is Finish.LENGTH
    answer = final_answer(texts, question=state.question, is_cut=is_cut)
    verdict = verdict_of(answer, state.reference)
    ended = drop_pending(state).evolve(stop_reason=reason, answer=answer, verdict=verdict)
    return _close(ended, Status.SUCCEEDED, now=now)


def fail(state: State, failure: Failure, *, now: datetime) -> State:
    """End a problem as failed; a problem that has ended stays as it is."""
    return state if state.status.is_final else end_early(state.evolve(failure=failure), Status.FAILED, now=now)


def exhaust(state: State, reason: str, *, now: datetime) -> State:
    """Fail a problem that has used up its attempts."""
    step, attempts = len(state.steps), state.options.max_attempts
    detail = f"Step {step} (counted from 0) failed in {attempts} attempts, {reason.removesuffix('.')}."
    return fail(state, Failure(code="attempts_exhausted", detail=detail), now=now)


def is_last_attempt(state: State) -> bool:
    """Tell whether no further attempt follows the present one."""
    return state.attempts + 1 >= state.options.max_attempts


def end_early(state: State, status: Status, *, now: datetime) -> State:
    """End a problem without an answer while work is out; raising the epoch makes its results late."""
    verdict = verdict_of(None, state.reference)
    return _close(drop_pending(state).evolve(epoch=state.epoch + 1, verdict=verdict), status, now=now)


def _close(state: State, status: Status, *, now: datetime) -> State:
    return state.evolve(status=status, request=None, due_at=None, absences=(), finished_at=now)
