"""Work that another worker did again is booked as wasted, and work that may be out is cancelled at the end."""

from __future__ import annotations

from datetime import timedelta

import pytest

from shared.domain.roles import Author
from shared.domain.status import CRASHES_WORKERS, Status
from shared.machine.commands import next_commands
from shared.machine.state import RequestOverdue, State
from shared.messages import CancelWork, GenerateSteps, derive_work_id
from tests.unit.machine.histories import (
    LARGE_ONLY,
    LATER,
    PROBLEM_ID,
    START,
    answer,
    command_of,
    drafts_of,
    failed,
    feed,
    generated,
    make_draft,
    running,
    scored,
)


def again(command: GenerateSteps) -> GenerateSteps:
    """Return a command as a second worker carries it out: what it writes has other ids."""
    return command.model_copy(update={"id": derive_work_id(command, worker="worker-2", runs=0)})


@pytest.mark.parametrize("text", ["one", "another"])
def test_a_large_step_that_was_written_again_is_wasted_once(text: str) -> None:
    state = running(plan=LARGE_ONLY)
    command = command_of(state)
    (first,), (second,) = drafts_of(command, "one"), drafts_of(again(command), text)
    copy = generated(second)
    state = feed(state, generated(first), copy, copy, generated(second))
    assert [step.text for step in state.steps] == ["one"]
    assert (state.ledger.large_out, state.ledger.large_wasted, state.ledger.large_calls) == (5, 5, 2)


def test_a_draft_that_was_written_and_scored_again_is_wasted_and_its_scoring_is_booked() -> None:
    state = running()
    command = command_of(state)
    (first,), (second,) = drafts_of(command, "one"), drafts_of(again(command), "one")
    state = feed(state, scored(first, scores=(1.0,)), scored(second, scores=(1.0,)))
    assert len(state.steps) == 1
    ledger = state.ledger
    assert (ledger.small_kept, ledger.small_wasted, ledger.prm_tokens, ledger.prm_calls) == (5, 5, 14, 2)


def solved_large(state: State) -> State:
    (draft,) = drafts_of(command_of(state), "\\boxed{7}")
    return feed(state, generated(draft, epoch=state.epoch))


def test_success_cancels_what_may_still_be_out_and_costs_an_ordinary_problem_nothing() -> None:
    assert next_commands(solved_large(running(plan=LARGE_ONLY))) == ()
    repeated = feed(running(plan=LARGE_ONLY), RequestOverdue(), now=START + timedelta(minutes=10))
    cancel = CancelWork(problem_id=PROBLEM_ID, epoch=1)
    assert next_commands(solved_large(repeated)) == (cancel,), "the first request may still be out"
    state = solved_large(running(plan=LARGE_ONLY))
    elsewhere = derive_work_id(command_of(running(plan=LARGE_ONLY)), worker="worker-2", runs=0)
    late = make_draft(command_id=elsewhere, author=Author.LARGE, index=0, prefix_digest="other", text="late")
    assert next_commands(feed(state, generated(late))) == (cancel,), "another worker did the work again"


def test_a_command_that_crashes_workers_fails_its_problem_whatever_the_number_of_its_request() -> None:
    state = feed(running(), RequestOverdue(), now=START + timedelta(minutes=10))
    assert state.request is not None
    assert state.request.number == 1
    verdict = failed(retryable=False, code=CRASHES_WORKERS, request_number=0)
    ended = feed(state, verdict, now=LATER)
    assert ended.failure is not None
    assert (ended.status, ended.failure.code) == (Status.FAILED, "crashes_workers")
    assert next_commands(ended) == (CancelWork(problem_id=PROBLEM_ID, epoch=1),)


def test_a_verdict_on_a_step_that_was_written_all_the_same_changes_nothing() -> None:
    state = answer(running(), "one", score=1.0)
    verdict = failed(retryable=False, code=CRASHES_WORKERS, request_number=0)
    assert feed(state, verdict, now=LATER).status is Status.RUNNING


def test_a_command_that_crashes_workers_after_its_first_step_fails_its_problem() -> None:
    state = running(lookahead=1)
    (first,) = drafts_of(command_of(state), "one")
    state = feed(state, scored(first, scores=(1.0,)))
    assert len(state.steps) == 1
    assert feed(state, failed(retryable=False, code=CRASHES_WORKERS)).status is Status.FAILED
