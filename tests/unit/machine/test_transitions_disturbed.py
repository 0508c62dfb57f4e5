"""Each branch of the state machine by example: duplicate and late messages, failures, deadlines, cancellation."""

from __future__ import annotations

from dataclasses import astuple, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from shared.domain.ledger import Ledger
from shared.domain.options import Options, Plan
from shared.domain.roles import Author
from shared.domain.status import CONTEXT_FULL, Status, StopReason
from shared.domain.text import prefix_digest
from shared.domain.verdict import Verdict
from shared.machine.commands import next_commands
from shared.machine.hearing import RETRY_DELAY_S
from shared.machine.requesting import MAX_DOUBLINGS, MAX_STEP_WAIT_S
from shared.machine.state import (
    CancelRequested,
    DeadlinePassed,
    ProblemAdmitted,
    RequestOverdue,
    State,
    new_state,
)
from shared.machine.transitions import apply
from shared.messages import (
    CancelWork,
    derive_id,
)
from tests.unit.machine.histories import (
    BY_SCORE,
    LATER,
    PROBLEM_ID,
    QUESTION,
    START,
    answer,
    command_of,
    drafts_of,
    failed,
    feed,
    generated,
    running,
    scored,
)

OVERDUE = START + timedelta(minutes=10)

# --- duplicate and late messages, and those for another prefix --------------------------------------------------------


def test_a_duplicate_event_changes_nothing() -> None:
    state = running()
    (draft,) = drafts_of(command_of(state), "one")
    event = scored(draft, scores=(1.0,))
    state = feed(state, event)
    assert feed(state, event, now=LATER) is state
    ended = answer(state, "\\boxed{1}", score=1.0)
    assert feed(ended, event, now=LATER) is ended
    assert feed(ended, RequestOverdue(), DeadlinePassed(), CancelRequested(), ProblemAdmitted(), now=LATER) is ended
    assert feed(ended, failed(retryable=False)) is ended


def test_a_draft_in_a_second_event_is_booked_once() -> None:
    state = running(lookahead=1)
    drafts = drafts_of(command_of(state), "a", "b")
    state = feed(state, scored(drafts[0], scores=(1.0,)), generated(*drafts), generated(drafts[0]))
    assert [each.draft for each in state.pending] == [drafts[1]]
    state = feed(state, generated(drafts[1]), scored(drafts[1], scores=(1.0,)))
    assert len(state.steps) == 2
    assert state.ledger.small_kept == 10


def test_late_events_are_booked_as_wasted_once_and_never_applied() -> None:
    state = running(plan=Plan())
    command = command_of(state)
    (first,) = drafts_of(command, "bad")
    (other,) = drafts_of(command.model_copy(update={"id": derive_id("other")}), "better")
    state = feed(state, scored(first, scores=(0.0,)), scored(other, scores=(1.0,)), generated(other))
    assert (state.steps, state.ledger.small_wasted, state.ledger.small_discarded) == ((), 5, 5)
    done = answer(answer(state, "large"), "\\boxed{1}", score=1.0)
    (late,) = drafts_of(command.model_copy(update={"id": derive_id("late"), "author": Author.LARGE}), "too late")
    after = feed(done, generated(late, epoch=done.epoch))
    assert after.ledger.large_wasted == 5
    assert replace(after, ledger=done.ledger, booked=done.booked) == done


def test_a_second_draft_of_a_decided_step_is_wasted() -> None:
    state = running()
    command = command_of(state)
    (twin,) = drafts_of(command.model_copy(update={"id": derive_id("twin")}), "one, again")
    state = answer(state, "one", score=1.0)
    state = feed(state, scored(twin, scores=(1.0,)))
    assert (len(state.steps), state.ledger.small_kept, state.ledger.small_wasted) == (1, 5, 5)


def test_a_draft_of_another_prefix_is_never_applied_and_booked_once() -> None:
    state = running(lookahead=1)
    command = command_of(state)
    ours = drafts_of(command, "a", "b")
    theirs = drafts_of(command.model_copy(update={"id": derive_id("another")}), "x", "y")
    state = feed(state, scored(theirs[1], scores=(1.0,)), scored(ours[0], scores=(1.0,)))
    assert [step.text for step in state.steps] == ["a"]
    assert (state.pending, state.ledger.small_wasted) == ((), 5)
    state = feed(state, generated(theirs[1]), scored(ours[1], scores=(1.0,)))
    assert [step.text for step in state.steps] == ["a", "b"]
    assert state.ledger.small_wasted == 5


def test_of_two_drafts_at_one_index_a_score_applies_to_the_one_with_its_text() -> None:
    state = running(lookahead=1)
    command = command_of(state)
    (first,) = drafts_of(command, "a")
    (same,) = drafts_of(command.model_copy(update={"id": derive_id("same")}), "a")
    (other,) = drafts_of(command.model_copy(update={"id": derive_id("other")}), "b")
    state = feed(state, generated(first))
    kept = feed(state, scored(other, scores=(1.0,)), generated(same))
    assert [each.draft.text for each in kept.pending] == ["a"]
    assert kept.ledger.small_wasted == 10
    taken = feed(state, scored(same, scores=(1.0,)))
    assert [step.text for step in taken.steps] == ["a"]
    assert (taken.ledger.small_kept, taken.ledger.small_wasted) == (5, 5)


@pytest.mark.parametrize("has_other_prefix", [False, True])
def test_a_draft_that_was_written_again_with_another_text_is_booked_once(has_other_prefix: bool) -> None:
    state = running(lookahead=2)
    drafts = drafts_of(command_of(state), "a", "b")
    again = replace(
        drafts[1],
        text="c",
        prefix_digest=prefix_digest(QUESTION, ["z"]) if has_other_prefix else drafts[1].prefix_digest,
    )
    state = feed(state, generated(*drafts), scored(again, scores=(1.0,)), scored(drafts[0], scores=(1.0,)))
    assert [each.draft for each in state.pending] == [drafts[1]]
    assert state.due_at is not None
    state = feed(state, RequestOverdue(), now=state.due_at)
    assert (state.ledger.small_kept, state.ledger.small_wasted) == (5, 5)


# --- time, failures and cancellation --------------------------------------------------------------------------------


def test_an_overdue_request_is_repeated_with_twice_the_time_until_the_attempts_are_exhausted() -> None:
    state = running(max_attempts=3, step_timeout_s=8.0)
    first = command_of(state)
    assert feed(state, RequestOverdue(), now=START + timedelta(seconds=7)) is state
    state = feed(state, RequestOverdue(), now=START + timedelta(seconds=8))
    second = command_of(state)
    assert (second.prefix, second.epoch) == (first.prefix, first.epoch)
    assert second.id != first.id
    assert state.due_at == second.expires_at == START + timedelta(seconds=8 + 16)
    state = feed(state, RequestOverdue(), now=START + timedelta(seconds=24))
    assert state.due_at == START + timedelta(seconds=24 + 32)
    state = feed(state, RequestOverdue(), now=START + timedelta(seconds=56))
    assert state.failure is not None
    assert (state.status, state.failure.code) == (Status.FAILED, "attempts_exhausted")
    assert "small model or the PRM" in state.failure.detail
    assert isinstance(next_commands(state)[0], CancelWork)


def test_a_failure_at_the_last_attempt_ends_the_problem_with_its_cause() -> None:
    state = feed(running(max_attempts=2), failed(retryable=True))
    assert state.due_at is not None
    state = feed(state, RequestOverdue(), now=state.due_at)
    state = feed(state, failed(retryable=True, name="again", request_number=1), now=LATER)
    assert state.failure is not None
    assert (state.status, state.failure.code) == (Status.FAILED, "attempts_exhausted")
    assert state.failure.detail == (
        "Step 0 (counted from 0) failed in 2 attempts, the last time because: The engine was busy."
    )


def test_the_next_step_has_all_its_attempts() -> None:
    state = running()
    assert state.due_at is not None
    state = feed(state, RequestOverdue(), now=state.due_at)
    assert state.attempts == 1
    state = answer(state, "one", score=1.0)
    assert (state.attempts, state.due_at) == (0, START + timedelta(seconds=60))


def test_an_overdue_large_step_is_requested_from_the_large_model_again() -> None:
    state = answer(running(max_attempts=2), "bad", score=0.0)
    assert state.due_at is not None
    again = feed(state, RequestOverdue(), now=state.due_at)
    assert (command_of(again).author, command_of(again).max_steps, again.epoch) == (Author.LARGE, 1, 1)
    assert again.due_at is not None
    over = feed(again, RequestOverdue(), now=again.due_at)
    assert over.failure is not None
    assert "large model" in over.failure.detail


def test_a_retryable_failure_is_retried_after_a_delay_and_a_permanent_one_ends_the_problem() -> None:
    state = running()
    waiting = feed(state, failed(retryable=True), now=LATER)
    assert waiting.due_at == LATER + timedelta(seconds=RETRY_DELAY_S)
    assert next_commands(waiting) == next_commands(state)
    assert feed(waiting, failed(retryable=True), now=LATER + timedelta(seconds=9)) is waiting
    again = feed(waiting, RequestOverdue(), now=LATER + timedelta(seconds=1))
    assert command_of(again).id != command_of(state).id
    waiting = feed(again, failed(retryable=True, name="second", request_number=1), now=LATER)
    assert waiting.due_at == LATER + timedelta(seconds=2 * RETRY_DELAY_S)
    over = feed(state, failed(retryable=False))
    assert over.failure is not None
    assert (over.status, over.failure.code, over.epoch) == (Status.FAILED, "engine_busy", 1)


def test_a_failure_of_an_older_epoch_changes_nothing() -> None:
    state = answer(running(), "bad", score=0.0)
    assert feed(state, failed(retryable=False, epoch=0)) is state


@pytest.mark.parametrize("retryable", [True, False])
def test_a_late_failure_of_an_abandoned_request_is_not_charged_to_its_replacement(retryable: bool) -> None:
    again = feed(running(), RequestOverdue(), now=START + timedelta(seconds=60))
    after = feed(again, failed(retryable=retryable, request_number=0), now=LATER)
    assert (after.status, after.due_at, after.request) == (Status.RUNNING, again.due_at, again.request)


def test_a_repeated_request_doubles_the_step_timeout() -> None:
    state = running(step_timeout_s=10.0)
    assert command_of(state).step_timeout_s == 10.0
    assert command_of(feed(state, RequestOverdue(), now=LATER)).step_timeout_s == 20.0


def test_a_solution_that_outgrows_a_model_ends_with_the_steps_that_it_has() -> None:
    full = failed(retryable=False, step=1, request_number=1, code=CONTEXT_FULL)
    ended = feed(answer(running(), "Six sevens make \\boxed", score=0.9), full)
    assert (ended.status, ended.stop_reason, len(ended.steps)) == (Status.SUCCEEDED, StopReason.TOKEN_LIMIT, 1)
    assert (ended.request, ended.pending, ended.due_at) == (None, (), None)


def test_a_question_that_exceeds_the_context_is_a_failure() -> None:
    ended = feed(running(), failed(retryable=False, code=CONTEXT_FULL))
    assert ended.failure is not None
    assert (ended.status, ended.failure.code) == (Status.FAILED, CONTEXT_FULL)


def test_waits_stop_doubling() -> None:
    state = replace(running(), attempts=5_000, options=Options(max_attempts=10_000))
    longest = 2**MAX_DOUBLINGS
    waiting = feed(state, failed(retryable=True))
    assert waiting.due_at == START + timedelta(seconds=longest)
    repeated = feed(state, RequestOverdue(), now=START + timedelta(seconds=60))
    assert repeated.due_at == START + timedelta(seconds=60 + MAX_STEP_WAIT_S)
    assert command_of(repeated).step_timeout_s == MAX_STEP_WAIT_S


def test_a_deadline_ends_an_unsolved_problem() -> None:
    state = running(deadline_at=LATER)
    assert feed(state, DeadlinePassed(), now=START) is state
    state = feed(state, DeadlinePassed(), now=LATER)
    assert (state.status, state.finished_at, state.epoch) == (Status.EXPIRED, LATER, 1)
    unbound = running()
    assert feed(unbound, DeadlinePassed(), now=LATER) is unbound


@pytest.mark.parametrize("late", [0, 1])
def test_a_solution_that_arrives_at_its_deadline_or_later_expires_and_is_booked(late: int) -> None:
    state = running(deadline_at=LATER)
    [draft] = drafts_of(command_of(state), "\\boxed{1}")
    now = LATER + timedelta(seconds=late)
    ended = feed(state, scored(draft, scores=(1.0,)), now=now)
    assert (ended.status, ended.finished_at, ended.steps, ended.decisions) == (Status.EXPIRED, now, (), ())
    assert (ended.ledger.small_wasted, ended.ledger.prm_calls) == (draft.tokens, 1)
    in_time = feed(state, scored(draft, scores=(1.0,)), now=LATER - timedelta(seconds=1))
    assert in_time.status is Status.SUCCEEDED
    assert feed(in_time, DeadlinePassed(), now=now) is in_time


def test_a_queued_problem_past_its_deadline_never_starts_and_may_still_be_cancelled() -> None:
    queued = new_state(problem_id=PROBLEM_ID, question=QUESTION, options=Options(deadline_at=LATER))
    expired = feed(queued, ProblemAdmitted(), now=LATER)
    assert (expired.status, expired.started_at, expired.request) == (Status.EXPIRED, None, None)
    assert feed(queued, CancelRequested(), now=LATER).status is Status.CANCELLED


def make_in(status: Status) -> State:
    match status:
        case Status.QUEUED:
            return new_state(problem_id=PROBLEM_ID, question=QUESTION, options=Options())
        case Status.RUNNING:
            state = running(lookahead=1)
            return feed(state, generated(*drafts_of(command_of(state), "a", "b")))
        case Status.SUCCEEDED:
            return answer(running(), "\\boxed{1}", score=1.0)
        case Status.FAILED:
            return feed(running(), failed(retryable=False))
        case Status.CANCELLED:
            return feed(running(), CancelRequested())
        case Status.EXPIRED:
            return feed(running(deadline_at=START), DeadlinePassed())


@pytest.mark.parametrize("end", [failed(retryable=False), CancelRequested(), DeadlinePassed()])
@pytest.mark.parametrize(("reference", "verdict"), [("42", Verdict.NO_ANSWER), (None, Verdict.UNVERIFIED)])
def test_a_problem_that_ends_without_a_solution_has_the_verdict_no_answer(
    end: Any, reference: str | None, verdict: Verdict
) -> None:
    state = running(reference=reference, deadline_at=LATER if isinstance(end, DeadlinePassed) else None)
    assert state.verdict is None
    ended = feed(state, end, now=LATER)
    assert (ended.status.is_final, ended.verdict, ended.answer) == (True, verdict, None)


@pytest.mark.parametrize("status", list(Status))
def test_cancelling_ends_what_has_not_ended(status: Status) -> None:
    state = make_in(status)
    assert state.status is status
    cancelled = feed(state, CancelRequested(), now=LATER)
    if status.is_final:
        assert cancelled is state
    else:
        assert (cancelled.status, cancelled.epoch, cancelled.finished_at) == (Status.CANCELLED, 1, LATER)
        assert next_commands(cancelled) == (CancelWork(problem_id=PROBLEM_ID, epoch=1),)
        assert cancelled.ledger.small_wasted == 5 * len(state.pending)
        assert feed(cancelled, ProblemAdmitted(), RequestOverdue(), CancelRequested()) is cancelled


@pytest.mark.parametrize("status", list(Status))
def test_no_event_raises_in_any_status(status: Status) -> None:
    command = command_of(running(lookahead=4))
    drafts = drafts_of(command, "a", "...", "\\boxed{1}")
    for epoch in (0, 1, 7):
        for event in (
            ProblemAdmitted(),
            CancelRequested(),
            DeadlinePassed(),
            RequestOverdue(),
            generated(*drafts, epoch=epoch),
            scored(*drafts, scores=(1.0,), epoch=epoch),
            scored(*drafts[1:], scores=(None, 1.0), epoch=epoch),
            generated(*drafts, *drafts, epoch=epoch),
            failed(retryable=True, epoch=epoch),
            failed(retryable=False, epoch=epoch),
        ):
            once = feed(make_in(status), event, now=LATER)
            before = make_in(status).ledger
            assert all(new >= old for new, old in zip(astuple(once.ledger), astuple(before), strict=True))
            assert feed(once, event, now=LATER) is once or event == RequestOverdue()


def test_input_that_was_not_cached_is_booked_with_the_first_draft_of_a_call() -> None:
    state = running()
    (draft,) = drafts_of(command_of(state), "one")
    state = feed(state, scored(replace(draft, prompt_tokens=100, cached_tokens=64), scores=(0.0,)))
    (draft,) = drafts_of(command_of(state), "large")
    state = feed(state, generated(replace(draft, prompt_tokens=50, cached_tokens=20), epoch=1))
    assert state.ledger == Ledger(
        small_discarded=5,
        small_in=36,
        large_out=5,
        large_in=30,
        prm_tokens=7,
        small_calls=1,
        large_calls=1,
        prm_calls=1,
    )


def test_a_store_may_leave_out_ids_that_are_not_in_the_event() -> None:
    state = running(lookahead=1)
    drafts = drafts_of(command_of(state), "a", "b")
    state = feed(state, generated(*drafts))
    inbox: set[UUID] = set(state.booked)
    event = scored(drafts[0], scores=(0.0,))
    after = apply(replace(state, booked=frozenset()), event, policy=BY_SCORE, now=START)
    assert after.booked.isdisjoint(inbox)
    assert after.booked == {event.id, drafts[0].id, drafts[1].id}


@pytest.mark.parametrize("retryable", [True, False])
def test_a_failure_within_a_stretch_waits_for_the_drafts_before_it_and_is_then_retried(retryable: bool) -> None:
    state = running(lookahead=4)
    first, second = drafts_of(command_of(state), "One", "Two")
    state = feed(state, generated(first, second), failed(retryable=retryable, step=2))
    assert state.status is Status.RUNNING
    assert not next_commands(state)
    after = feed(state, scored(first, scores=(0.9,)))
    assert command_of(after).prefix == ("One", "Two"), "the rest is requested again at once"
    again = failed(retryable=retryable, name="again", request_number=1, step=2)
    assert not next_commands(feed(after, again)), "one draft is still undecided"
    turn = feed(after, scored(second, scores=(0.9,)), again, now=LATER)
    if retryable:
        assert turn.due_at == LATER + timedelta(seconds=RETRY_DELAY_S)
    else:
        assert turn.status is Status.FAILED


@pytest.mark.parametrize("code", ["engine_busy", CONTEXT_FULL])
@pytest.mark.parametrize("retryable", [True, False])
def test_a_failure_that_overtakes_the_scores_of_earlier_drafts_waits_for_them(code: str, retryable: bool) -> None:
    state = running(lookahead=None, max_attempts=1)
    first, second = drafts_of(command_of(state), "One", "Two")
    state = feed(state, failed(retryable=retryable, code=code, step=2), scored(first, scores=(0.9,)))
    assert not next_commands(state), "the second is on its way"
    state = feed(state, scored(second, scores=(0.9,)))
    assert [step.text for step in state.steps] == ["One", "Two"]
    assert command_of(state).prefix == ("One", "Two")


@pytest.mark.parametrize("retryable", [True, False])
def test_a_failure_of_the_prm_waits_for_earlier_scores(retryable: bool) -> None:
    state = running(lookahead=2)
    first, second = drafts_of(command_of(state), "One", "Two")
    state = feed(state, failed(retryable=retryable, step=1, lost=(second,)))
    assert state.status is Status.RUNNING
    escalated = feed(state, scored(first, scores=(0.1,)))
    assert command_of(escalated).author is Author.LARGE
    accepted = feed(state, scored(first, scores=(0.9,)))
    assert command_of(accepted).prefix == ("One",)


def test_a_draft_that_the_prm_scored_too_late_does_not_block_its_replacement() -> None:
    state = running()
    (late,) = drafts_of(command_of(state), "One")
    again = feed(state, RequestOverdue(), now=OVERDUE)
    (draft,) = drafts_of(command_of(again), "Eins")
    after = feed(again, failed(retryable=True, lost=(late,)), scored(draft, scores=(0.9,)), now=OVERDUE)
    assert [step.text for step in after.steps] == ["Eins"]
    assert after.ledger.small_wasted == late.tokens


def test_a_request_that_continues_a_lost_draft_is_abandoned() -> None:
    state = running(lookahead=2)
    first, second, third = drafts_of(command_of(state), "One", "Two", "Three")
    state = feed(state, generated(first, second, third), scored(first, scores=(0.9,)))
    assert command_of(state).prefix == ("One", "Two", "Three")
    state = feed(state, failed(retryable=True, step=1, lost=(second,)))
    assert not next_commands(state)
    again = feed(state, RequestOverdue(), now=OVERDUE)
    assert command_of(again).prefix == ("One",)


@pytest.mark.parametrize("code", ["bad_scores", CONTEXT_FULL, "step_timeout"])
def test_a_failure_of_a_duplicate_of_finished_work_changes_nothing(code: str) -> None:
    state = answer(running(), "One", score=0.9)
    for retryable in (True, False):
        assert feed(state, failed(retryable=retryable, code=code)) is state
        (draft,) = drafts_of(command_of(running()), "One")
        assert feed(state, failed(retryable=retryable, code=code, lost=(draft,))) is state, "it was booked as kept"


def test_unscored_drafts_of_a_failure_are_booked_and_written_again() -> None:
    state = running()
    (draft,) = drafts_of(command_of(state), "One", tokens=7)
    waiting = feed(state, failed(retryable=True, lost=(draft,)), now=LATER)
    assert (waiting.ledger.small_wasted, waiting.ledger.small_calls) == (7, 1)
    assert waiting.due_at == LATER + timedelta(seconds=RETRY_DELAY_S)
    again = feed(waiting, RequestOverdue(), now=LATER + timedelta(seconds=1))
    assert command_of(again).first_step == 0


def test_later_unscored_drafts_of_a_failure_are_written_again_without_delay() -> None:
    state = running(lookahead=2)
    first, second, third = drafts_of(command_of(state), "One", "Two", "Three")
    state = feed(state, generated(first, second, third), failed(retryable=True, step=1, lost=(second, third)))
    assert state.ledger.small_wasted == second.tokens + third.tokens
    after = feed(state, scored(first, scores=(0.9,)))
    assert command_of(after).prefix == ("One",)


def test_a_draft_that_was_scored_despite_the_failure_is_not_lost() -> None:
    state = running(lookahead=2)
    first, second = drafts_of(command_of(state), "One", "Two")
    state = feed(state, scored(second, scores=(0.8,)), failed(retryable=True, lost=(second,), step=1))
    after = feed(state, scored(first, scores=(0.9,)))
    assert [step.text for step in after.steps] == ["One", "Two"]
    assert after.ledger.small_wasted == 0


def test_a_lost_draft_of_an_older_epoch_is_booked_once() -> None:
    state = answer(running(), "bad", score=0.0)
    (draft,) = drafts_of(command_of(running()), "One", "Two")[1:]
    event = failed(retryable=True, lost=(draft,))
    late = feed(state, event)
    assert (late.ledger.small_wasted, late.request) == (draft.tokens, state.request)
    assert feed(late, event) is late
