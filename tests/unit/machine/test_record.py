"""The record that the state machine keeps: ledger, verdict, and what took each decision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.domain.decisions import DecidedBy
from shared.domain.drafts import Finish, UnfinishedWork
from shared.domain.ledger import Ledger
from shared.domain.options import Plan
from shared.domain.roles import Author, WorkerRole
from shared.domain.status import Status, StopReason
from shared.domain.text import prefix_digest
from shared.domain.thoughts import as_thought
from shared.domain.verdict import Verdict
from shared.machine import requesting
from shared.machine.commands import next_commands
from shared.machine.state import CancelRequested, RequestOverdue
from shared.machine.transitions import give_up
from shared.messages import CancelWork, WorkCancelled, derive_id
from tests.unit.machine.histories import (
    DRAFTS_ONLY,
    LARGE_ONLY,
    LATER,
    PROBLEM_ID,
    QUESTION,
    VERSION,
    answer,
    command_of,
    drafts_of,
    failed,
    feed,
    generated,
    running,
    scored,
)


def unfinished(role: WorkerRole, *, estimated_tokens: int = 0, opens_call: bool = False) -> UnfinishedWork:
    return UnfinishedWork(
        role=role, tokens=11, estimated_tokens=estimated_tokens, input_tokens=3, opens_call=opens_call
    )


def cancelled(work: UnfinishedWork, *, name: str = "cancelled", epoch: int = 0) -> WorkCancelled:
    return WorkCancelled(id=derive_id(name), problem_id=PROBLEM_ID, epoch=epoch, worker="w", unfinished=work)


# --- the ledger -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [DRAFTS_ONLY, LARGE_ONLY])
def test_an_end_without_words_is_wasted_because_it_becomes_no_step(plan: object) -> None:
    state = running(plan=plan)
    if plan == LARGE_ONLY:
        state = feed(state, generated(*drafts_of(command_of(state), "one", "...", finish=Finish.ENDED)))
    else:
        state = answer(answer(state, "one"), "...", finish=Finish.ENDED)
    assert state.stop_reason is StopReason.FINAL_ANSWER
    author = Author.SMALL if plan == DRAFTS_ONLY else Author.LARGE
    kept = {Author.SMALL: state.ledger.small_kept, Author.LARGE: state.ledger.large_out}[author]
    wasted = {Author.SMALL: state.ledger.small_wasted, Author.LARGE: state.ledger.large_wasted}[author]
    assert (kept, wasted) == (5, 5)
    assert kept == sum(step.tokens for step in state.steps)


def test_a_first_draft_without_words_is_wasted_too() -> None:
    state = answer(running(plan=DRAFTS_ONLY), "...")
    assert (state.status, state.ledger) == (Status.FAILED, Ledger(small_wasted=5, small_calls=1))


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (unfinished(WorkerRole.SMALL), Ledger(small_wasted=11, small_in=3)),
        (unfinished(WorkerRole.SMALL, opens_call=True), Ledger(small_wasted=11, small_in=3, small_calls=1)),
        (unfinished(WorkerRole.LARGE), Ledger(large_wasted=11, large_in=3)),
        (unfinished(WorkerRole.LARGE, estimated_tokens=4), Ledger(large_wasted=11, large_estimated=4, large_in=3)),
        (unfinished(WorkerRole.SMALL, estimated_tokens=4), Ledger(small_wasted=11, small_estimated=4, small_in=3)),
        (unfinished(WorkerRole.PRM, opens_call=True), Ledger(prm_tokens=11, prm_calls=1)),
        (unfinished(WorkerRole.PRM, estimated_tokens=4), Ledger(prm_tokens=11, prm_estimated=4)),
    ],
)
def test_unfinished_work_is_booked_once_with_estimates_separate(work: UnfinishedWork, expected: Ledger) -> None:
    event = cancelled(work)
    state = feed(running(), event)
    assert state.ledger == expected
    assert feed(state, event) is state
    ended = feed(running(), CancelRequested())
    assert feed(ended, event, event).ledger == expected, "also once the problem has ended"


def test_a_failure_books_what_the_work_had_used_whether_or_not_the_problem_waits_for_it() -> None:
    state = running()
    event = failed(retryable=True, unfinished=unfinished(WorkerRole.SMALL))
    waiting = feed(state, event)
    assert waiting.ledger.small_wasted == 11
    assert waiting.due_at != state.due_at
    again = feed(state, RequestOverdue(), now=LATER.replace(year=2027))
    late = feed(again, event, event)
    assert (late.ledger.small_wasted, late.due_at) == (11, again.due_at)


# --- the verdict ------------------------------------------------------------------------------------------------------


def test_the_verdict_is_set_once_at_the_end_and_no_later_event_touches_it() -> None:
    state = running(reference="42", lookahead=1)
    assert state.verdict is None
    (late,) = drafts_of(command_of(state).model_copy(update={"id": derive_id("late")}), "late")
    ended = answer(state, "\\boxed{42}", score=1.0)
    assert (ended.verdict, ended.answer) == (Verdict.CORRECT, "42")
    graded = replace(ended, verdict=Verdict.INCORRECT)
    after = feed(graded, generated(late))
    assert after.ledger != graded.ledger
    assert after.verdict is Verdict.INCORRECT


@pytest.mark.parametrize(
    ("reference", "text", "verdict"),
    [
        (None, "\\boxed{42}", Verdict.UNVERIFIED),
        ("42", "\\boxed{43}", Verdict.INCORRECT),
        ("42", "\\boxed{x}", Verdict.UNVERIFIED),
        ("42.0", "\\boxed{42}", Verdict.CORRECT),
    ],
)
def test_the_verdict_compares_the_answer_with_the_reference(reference: str | None, text: str, verdict: Verdict) -> None:
    assert answer(running(reference=reference), text, score=1.0).verdict is verdict


# --- what decided -----------------------------------------------------------------------------------------------------


def test_each_decision_names_its_policy_and_whether_a_rule_took_it() -> None:
    state = answer(answer(running(), "one", score=1.0), "two", score=None)
    assert [(each.number, each.step, each.decided_by, each.policy) for each in state.decisions] == [
        (0, 0, DecidedBy.POLICY, VERSION),
        (1, 1, DecidedBy.RULE, VERSION),
    ]
    assert (state.decision_count, state.escalation_count) == (2, 1)


def test_decisions_are_numbered_on_although_the_store_loads_no_earlier_ones() -> None:
    state = replace(answer(running(), "one", score=1.0), decisions=())
    state = answer(state, "two", score=0.0)
    assert [each.number for each in state.decisions] == [1]
    assert (state.decision_count, state.escalation_count) == (2, 1)


def test_a_policy_sees_the_question_and_scores_aligned_with_steps() -> None:
    state = answer(answer(running(), "bad", score=0.0), "large")
    (draft,) = drafts_of(command_of(state), "next")
    state = feed(state, scored(draft, scores=(1.0,), prefix_scores=(None,), epoch=1))
    seen = state.decisions[-1].observation
    assert (seen.previous_scores, seen.min_previous, seen.product_previous) == ((None,), 1.0, 1.0)
    assert seen.question_digest == prefix_digest(QUESTION, ())
    assert answer(running(question="Another?"), "a", score=1.0).decisions[0].observation.question_digest not in (
        seen.question_digest,
        "",
    )


def test_a_policy_sees_the_confidence_that_its_plan_asks_for() -> None:
    state = running(plan=Plan(scores=False, confidence=True))
    command = command_of(state)
    (draft,) = drafts_of(command, "one")
    state = feed(state, generated(replace(draft, mean_logprob=-0.5, min_logprob=-2.0)))
    seen = state.decisions[0].observation
    assert (seen.mean_logprob, seen.min_logprob) == (-0.5, -2.0)
    rewriting = command_of(state)
    assert (command.reports_confidence, command.author) == (True, Author.SMALL)
    assert (rewriting.reports_confidence, rewriting.author) == (False, Author.LARGE)
    assert not command_of(running()).reports_confidence


def test_a_policy_sees_which_steps_are_thoughts() -> None:
    hm = as_thought("Hm.", is_last=False)
    state = answer(answer(running(), hm, score=1.0), "text", score=1.0)
    state = answer(answer(state, "draft", score=0.0), as_thought("So 2.", is_last=True))
    state = answer(state, hm, score=1.0)
    assert [each.observation.thoughts for each in state.decisions] == [(0,), (0,), (0,), (0, 2, 3)]
    assert [each.observation.is_thought for each in state.decisions] == [True, False, False, True]


def test_a_policy_for_whole_solutions_sees_which_of_their_drafts_are_thoughts() -> None:
    state = running(plan=Plan(decides_whole=True, takes_over=True))
    texts = (as_thought("Hm.", is_last=False), as_thought("So.", is_last=True), r"\boxed{2}")
    drafts = drafts_of(command_of(state), *texts, finish=Finish.ENDED)
    state = feed(state, scored(*drafts, scores=(1.0, 1.0, 1.0)))
    assert [each.observation.thoughts for each in state.decisions] == [(0, 1)] * 3


# --- size, and problems that cannot be read ---------------------------------------------------------------------------


@pytest.mark.parametrize("lookahead", [0, 2])
def test_a_solution_that_fills_a_message_ends_with_the_steps_that_it_has(
    monkeypatch: pytest.MonkeyPatch, lookahead: int
) -> None:
    monkeypatch.setattr(requesting, "MAX_PREFIX_BYTES", len(QUESTION) + len("one") + len("zwei"))
    state = running(lookahead=lookahead)
    first, second = drafts_of(command_of(state), "one", "zwei")
    if lookahead:
        state = feed(state, generated(first, second))
        assert [each for each in next_commands(state) if each.id != command_of(running(lookahead=2)).id] == []
        state = feed(state, scored(first, second, scores=(1.0, 1.0)))
    else:
        state = answer(answer(state, "one", score=1.0), "zwei", score=1.0)
    assert (state.status, state.stop_reason, len(state.steps)) == (Status.SUCCEEDED, StopReason.SIZE_LIMIT, 2)


def test_an_unreadable_problem_fails_and_cancels_its_work() -> None:
    state = give_up(running(), detail="Its row cannot be read.", now=LATER)
    assert state.failure is not None
    assert (state.status, state.failure.code, state.finished_at) == (Status.FAILED, "unreadable", LATER)
    assert next_commands(state) == (CancelWork(problem_id=PROBLEM_ID, epoch=1),)
    assert give_up(state, detail="Again.", now=LATER) is state
