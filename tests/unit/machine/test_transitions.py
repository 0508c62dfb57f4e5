"""Each branch of the state machine by example, without disturbances."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from shared.domain.decisions import Action, Decision, Observation
from shared.domain.drafts import Finish
from shared.domain.ledger import Ledger
from shared.domain.options import Limits, Options, Plan
from shared.domain.roles import Author
from shared.domain.status import Status, StopReason
from shared.domain.text import prefix_digest
from shared.machine.commands import next_commands
from shared.machine.state import (
    DeadlinePassed,
    ProblemAdmitted,
    RequestOverdue,
    new_state,
)
from shared.messages import (
    CancelWork,
)
from tests.unit.machine.histories import (
    DRAFTS_ONLY,
    LARGE_ONLY,
    LATER,
    PROBLEM_ID,
    QUESTION,
    START,
    answer,
    command_of,
    drafts_of,
    feed,
    generated,
    running,
    scored,
)

# --- beginning ------------------------------------------------------------------------------------------------------


def test_a_queued_problem_has_no_commands() -> None:
    state = new_state(problem_id=PROBLEM_ID, question=QUESTION, options=Options())
    assert next_commands(state) == ()
    assert feed(state, RequestOverdue(), DeadlinePassed()) is state


def test_an_admitted_problem_requests_its_first_step_and_is_admitted_once() -> None:
    state = running()
    assert (state.status, state.started_at) == (Status.RUNNING, START)
    assert state.due_at == START + timedelta(seconds=60)
    command = command_of(state)
    assert (command.prefix, command.max_steps, command.author, command.results_to) == ((), 1, Author.SMALL, "prm")
    assert feed(state, ProblemAdmitted(), now=LATER) is state


@pytest.mark.parametrize(
    ("plan", "lookahead", "expected"),
    [
        (Plan(), 0, (1, "prm", False, Author.SMALL)),
        (Plan(), 4, (5, "prm", True, Author.SMALL)),
        (Plan(), None, (30, "prm", False, Author.SMALL)),
        (DRAFTS_ONLY, 4, (5, "events", False, Author.SMALL)),
        (LARGE_ONLY, 0, (30, "events", False, Author.LARGE)),
    ],
)
def test_the_plan_and_the_window_shape_the_first_command(
    plan: Plan, lookahead: int | None, expected: tuple[object, ...]
) -> None:
    command = command_of(running(plan=plan, lookahead=lookahead))
    assert (command.max_steps, command.results_to, command.reports_stretch, command.author) == expected


def test_commands_are_the_same_for_the_same_state_and_leave_it_alone() -> None:
    state = running(lookahead=2)
    before = replace(state)
    assert next_commands(state) == next_commands(state)
    assert state == before


# --- deciding -------------------------------------------------------------------------------------------------------


def test_a_good_draft_becomes_a_step_and_the_next_one_is_requested() -> None:
    state = answer(running(), "one", score=0.5)
    assert [(step.text, step.author, step.score) for step in state.steps] == [("one", Author.SMALL, 0.5)]
    assert command_of(state).prefix == ("one",)
    assert state.ledger == Ledger(small_kept=5, prm_tokens=7, small_calls=1, prm_calls=1)


def test_a_bad_draft_is_replaced_by_a_large_step_whose_score_the_next_decision_sees() -> None:
    state = answer(running(), "bad", score=0.25)
    assert (state.epoch, state.steps, state.is_escalating) == (1, (), True)
    command = command_of(state)
    assert (command.author, command.max_steps, command.results_to, command.prefix) == (Author.LARGE, 1, "events", ())
    state = answer(state, "good")
    assert [(step.author, step.score) for step in state.steps] == [(Author.LARGE, None)]
    command = command_of(state)
    assert (command.author, command.unscored_steps, command.epoch) == (Author.SMALL, 1, 1)
    (draft,) = drafts_of(command, "next")
    state = feed(state, scored(draft, scores=(1.0,), prefix_scores=(0.75,), epoch=1))
    assert state.decisions[-1].observation.previous_scores == (0.75,)
    assert state.decisions[-1].observation.previous_authors == (Author.LARGE,)
    assert state.decisions[-1].observation.previous_tokens == (5,)
    assert state.decisions[-1].observation.large_out == 5
    assert [step.score for step in state.steps] == [0.75, 1.0]
    assert (state.ledger.small_discarded, state.ledger.small_kept, state.ledger.large_out) == (5, 5, 5)
    assert command_of(state).unscored_steps == 0


def test_large_steps_in_a_row_are_scored_together_and_only_those_without_a_score() -> None:
    state = answer(answer(running(), "bad", score=0.0), "large 0")
    state = answer(state, "bad", score=None)
    assert state.decisions[-1].decision.reason == "invalid_score"
    state = answer(state, "large 1")
    command = command_of(state)
    assert command.unscored_steps == 2
    (draft,) = drafts_of(command, "bad again")
    state = feed(state, scored(draft, scores=(0.0,), prefix_scores=(0.5, 0.25), epoch=2))
    assert [step.score for step in state.steps] == [0.5, 0.25]
    state = answer(state, "large 2")
    command = command_of(state)
    assert command.unscored_steps == 1
    (draft,) = drafts_of(command, "fine")
    state = feed(state, scored(draft, scores=(1.0,), prefix_scores=(0.9, 0.125), epoch=3))
    assert [step.score for step in state.steps] == [0.5, 0.25, 0.125, 1.0], "a score never changes"


def test_a_draft_with_an_invalid_score_is_accepted_if_the_plan_never_escalates() -> None:
    state = answer(running(plan=Plan(escalates=False)), "one", score=None)
    assert state.decisions[0].decision == Decision(action=Action.ACCEPT, reason="invalid_score")
    assert len(state.steps) == 1


def test_scores_that_do_not_match_the_drafts_are_invalid() -> None:
    state = running()
    (draft,) = drafts_of(command_of(state), "one")
    state = feed(state, scored(draft, scores=(0.9, 0.9)))
    assert state.decisions[0].decision.reason == "invalid_score"
    assert state.decisions[0].observation.score is None
    assert state.is_escalating


def test_every_large_step_has_a_decision_if_the_plan_drafts_nothing() -> None:
    state = running(plan=LARGE_ONLY)
    command = command_of(state)
    drafts = drafts_of(command, "one", "so \\boxed{42}")
    state = feed(state, generated(drafts[0]))
    assert command_of(state) == command, "the stretch continues"
    state = feed(state, generated(drafts[1]), now=LATER)
    assert [(each.draft, each.decision.action) for each in state.decisions] == [(None, Action.ESCALATE)] * 2
    digest = prefix_digest(QUESTION, ())
    assert state.decisions[0].observation == Observation(step=0, score=None, question_digest=digest)
    assert (state.status, state.answer, state.finished_at) == (Status.SUCCEEDED, "42", LATER)
    assert (state.epoch, state.ledger.large_out, state.ledger.large_calls) == (0, 10, 1)


# --- the end of a solution -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "finish", "expected"), [("\\boxed{7}", Finish.SEPARATOR, "7"), ("Seven.", Finish.ENDED, None)]
)
def test_a_boxed_answer_or_an_end_of_the_text_ends_the_problem(text: str, finish: Finish, expected: str | None) -> None:
    state = answer(running(), text, score=1.0, finish=finish)
    assert (state.status, state.stop_reason, state.answer) == (Status.SUCCEEDED, StopReason.FINAL_ANSWER, expected)
    assert state.decisions[0].observation.is_final
    assert (state.request, state.due_at, next_commands(state)) == (None, None, ())


def test_max_steps_ends_the_problem() -> None:
    state = answer(running(limits=Limits(max_steps=2)), "one", score=1.0)
    assert command_of(state).max_steps == 1
    state = answer(state, "two", score=1.0)
    assert (state.stop_reason, state.answer) == (StopReason.MAX_STEPS, None)
    assert [each.observation.is_final for each in state.decisions] == [False, True]


def test_max_tokens_ends_the_problem() -> None:
    state = answer(running(limits=Limits(max_tokens=10)), "one", score=1.0)
    assert command_of(state).max_tokens == 5
    state = answer(state, "two", score=1.0)
    assert state.stop_reason is StopReason.TOKEN_LIMIT


def test_a_degenerate_first_draft_is_escalated_and_a_degenerate_first_large_step_is_a_failure() -> None:
    state = running()
    (draft,) = drafts_of(command_of(state), "...", finish=Finish.ENDED)
    state = feed(state, generated(draft))
    assert state.decisions[0].decision == Decision(action=Action.ESCALATE, reason="degenerate_draft")
    state = answer(state, "--")
    assert state.status is Status.FAILED
    assert state.failure is not None
    assert state.failure.code == "no_output"
    assert (state.epoch, next_commands(state)) == (2, (CancelWork(problem_id=PROBLEM_ID, epoch=2),))


def test_a_degenerate_first_draft_is_a_failure_if_the_plan_never_escalates() -> None:
    state = answer(running(plan=DRAFTS_ONLY), "...")
    assert state.status is Status.FAILED
    assert state.decisions[0].decision.action is Action.ACCEPT


def test_a_degenerate_later_draft_is_escalated_and_a_degenerate_large_step_ends_the_problem() -> None:
    state = answer(running(), "one", score=1.0)
    (draft,) = drafts_of(command_of(state), "...")
    state = answer(feed(state, generated(draft)), "...")
    assert (state.status, state.stop_reason) == (Status.SUCCEEDED, StopReason.DEGENERATE)
    assert [step.text for step in state.steps] == ["one"]


def test_a_degenerate_later_draft_ends_the_problem_if_the_plan_never_escalates() -> None:
    state = answer(answer(running(plan=DRAFTS_ONLY), "one"), "...")
    assert state.stop_reason is StopReason.DEGENERATE


@pytest.mark.parametrize("plan", [Plan(), DRAFTS_ONLY])
def test_a_model_that_ends_without_another_step_has_finished_the_solution(plan: Plan) -> None:
    state = answer(running(plan=plan), "It is \\boxed{", score=1.0)
    (draft,) = drafts_of(command_of(state), ".", finish=Finish.ENDED)
    state = feed(state, generated(draft))
    assert state.decisions[-1].decision == Decision(action=Action.ACCEPT, reason="model_ended")
    assert (state.status, state.stop_reason) == (Status.SUCCEEDED, StopReason.FINAL_ANSWER)
    assert len(state.steps) == 1


# --- drafting ahead -------------------------------------------------------------------------------------------------


def test_a_reported_stretch_is_continued_before_all_its_scores_have_arrived() -> None:
    state = running(lookahead=2, limits=Limits(max_steps=4, max_tokens=100))
    command = command_of(state)
    drafts = drafts_of(command, "a", "b", "c")
    state = feed(state, generated(*drafts))
    assert (state.request, len(state.pending), next_commands(state)) == (None, 3, ()), "the window is full"
    state = feed(state, scored(drafts[0], scores=(1.0,)))
    ahead = command_of(state)
    assert (ahead.prefix, ahead.max_steps, ahead.max_tokens) == (("a", "b", "c"), 1, 85)
    state = feed(state, scored(drafts[1], scores=(1.0,)))
    assert command_of(state) == ahead, "the pending command stays the same"
    (last,) = drafts_of(ahead, "d")
    state = feed(state, generated(last), scored(drafts[2], scores=(1.0,)))
    assert (state.request, state.status) == (None, Status.RUNNING), "there is no fifth step to request"
    state = feed(state, scored(last, scores=(1.0,)))
    assert state.stop_reason is StopReason.MAX_STEPS


def test_a_command_stays_the_same_while_its_steps_are_decided() -> None:
    state = answer(answer(running(lookahead=4), "bad", score=0.0), "large")
    command = command_of(state)
    assert (command.unscored_steps, command.max_steps, command.max_tokens) == (1, 5, 4091)
    drafts = drafts_of(command, "a", "b", "c")
    state = feed(state, scored(drafts[0], scores=(1.0,), prefix_scores=(0.5,), epoch=1))
    assert next_commands(state) == (command,)
    state = feed(state, generated(*drafts, epoch=1))
    assert next_commands(state) == (command,), "known drafts past the command's start are no prefix of it"
    state = feed(state, scored(drafts[1], scores=(1.0,), epoch=1))
    assert next_commands(state) == (command,)


def test_scores_that_arrive_out_of_order_wait_for_their_turn() -> None:
    state = running(lookahead=2)
    drafts = drafts_of(command_of(state), "a", "b", "c")
    for place in (2, 1):
        state = feed(state, scored(drafts[place], scores=(1.0,)))
        assert state.steps == ()
    state = feed(state, scored(drafts[0], scores=(1.0,)))
    assert [step.text for step in state.steps] == ["a", "b", "c"]
    assert state.pending == ()


def test_an_escalation_wastes_later_drafts_and_cancels_unfinished_work() -> None:
    state = running(lookahead=2)
    drafts = drafts_of(command_of(state), "a", "b", "c")
    state = feed(state, generated(*drafts[:2]), scored(drafts[0], scores=(0.0,)))
    cancel, command = next_commands(state)
    assert cancel == CancelWork(problem_id=PROBLEM_ID, epoch=1)
    assert (state.pending, state.ledger.small_discarded, state.ledger.small_wasted) == ((), 5, 5)
    late = feed(state, scored(drafts[1], scores=(1.0,)), scored(drafts[2], scores=(1.0,)))
    assert next_commands(late) == (cancel, command)
    assert (late.steps, late.ledger.small_wasted, late.ledger.prm_calls) == ((), 10, 3)
    assert late.due_at == state.due_at


@pytest.mark.parametrize("text", ["\\boxed{1}", "..."])
@pytest.mark.parametrize("lookahead", [1, 4])
def test_nothing_is_requested_past_a_draft_that_ends_the_solution(text: str, lookahead: int) -> None:
    state = running(lookahead=lookahead)
    command = command_of(state)
    state = feed(state, generated(*drafts_of(command, "a", text)))
    assert next_commands(state) == (() if lookahead == 1 else (command,))
    assert state.due_at is not None
    again = feed(state, RequestOverdue(), now=state.due_at)
    assert command_of(again).prefix == ()
    assert command_of(again).id != command.id
    assert again.ledger.small_wasted == 10
