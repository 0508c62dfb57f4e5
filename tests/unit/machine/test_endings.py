"""Where the state machine ends a solution, by what a step holds and by the steps before it."""

from __future__ import annotations

import pytest

from shared.domain.decisions import Action, Decision
from shared.domain.drafts import Finish
from shared.domain.options import Plan
from shared.domain.roles import Author
from shared.domain.status import Status, StopReason
from shared.machine.commands import next_commands
from shared.machine.state import RequestOverdue, State
from tests.unit.machine.histories import (
    DRAFTS_ONLY,
    LARGE_ONLY,
    answer,
    command_of,
    drafts_of,
    feed,
    generated,
    running,
    scored,
)

ROOT = "`x` is one root: \\boxed{3} is the first one."
SILENT = [("", Finish.ENDED), ("", Finish.SEPARATOR), ("---", Finish.SEPARATOR), ("---", Finish.LENGTH)]


def write(state: State, text: str, *, finish: Finish = Finish.SEPARATOR) -> State:
    """Answer a request with a draft that is not scored, as workers send one without words."""
    (draft,) = drafts_of(command_of(state), text, finish=finish)
    return feed(state, generated(draft, epoch=state.epoch))


@pytest.mark.parametrize("text", ["I will put the answer in `\\boxed{}`.", "\\boxed{3} is the first root.", "One."])
def test_a_solution_goes_on_after_a_step_that_states_no_answer(text: str) -> None:
    state = answer(running(), text, score=1.0)
    assert (state.status, command_of(state).prefix) == (Status.RUNNING, (text,))
    assert not state.decisions[0].observation.is_final


@pytest.mark.parametrize(("text", "finish"), SILENT)
@pytest.mark.parametrize("plan", [Plan(), DRAFTS_ONLY])
def test_a_small_model_without_words_after_a_box_ends_the_solution(plan: Plan, text: str, finish: Finish) -> None:
    state = answer(running(plan=plan, reference="3"), ROOT, score=1.0)
    state = write(state, text, finish=finish)
    assert (state.status, state.stop_reason) == (Status.SUCCEEDED, StopReason.FINAL_ANSWER)
    assert (state.answer, len(state.steps), state.escalation_count) == ("3", 1, 0)
    assert state.decisions[-1].decision == Decision(action=Action.ACCEPT, reason="model_ended")
    assert (state.ledger.small_calls, state.ledger.prm_calls) == (2, int(plan.scores))


@pytest.mark.parametrize(("text", "finish"), SILENT)
def test_a_large_model_without_words_after_a_box_ends_the_solution(text: str, finish: Finish) -> None:
    state = running(plan=LARGE_ONLY)
    state = feed(state, generated(*drafts_of(command_of(state), ROOT, text, finish=finish)))
    assert (state.stop_reason, state.answer, len(state.steps)) == (StopReason.FINAL_ANSWER, "3", 1)


def test_words_after_a_box_go_on_and_the_later_box_is_the_answer() -> None:
    state = answer(answer(running(), ROOT, score=1.0), "The other one is 7.", score=1.0)
    state = answer(state, "The answer is \\boxed{7}.", score=1.0)
    assert (state.stop_reason, state.answer, len(state.steps)) == (StopReason.FINAL_ANSWER, "7", 3)
    assert [record.observation.is_final for record in state.decisions] == [False, False, True]


def test_words_after_a_box_may_leave_it_the_answer() -> None:
    state = answer(answer(running(), ROOT, score=1.0), "This is right.", score=1.0, finish=Finish.ENDED)
    assert (state.answer, len(state.steps)) == ("3", 2)


def test_a_fence_that_an_early_step_leaves_open_hides_no_answer() -> None:
    state = answer(running(), "```\nx = 3", score=1.0)
    state = answer(state, "The answer is \\boxed{3}.", score=1.0)
    assert state.answer == "3"


@pytest.mark.parametrize("text", ["This makes 12", "It is \\boxed{12"])
def test_a_draft_that_was_cut_ends_the_solution_if_it_is_accepted(text: str) -> None:
    state = answer(running(), text, score=1.0, finish=Finish.LENGTH)
    assert (state.status, state.stop_reason, state.answer) == (Status.SUCCEEDED, StopReason.STEP_CUT, None)
    assert state.decisions[0].observation.is_final
    assert next_commands(state) == ()


@pytest.mark.parametrize(("finish", "expected"), [(Finish.ENDED, "7"), (Finish.LENGTH, None)])
def test_an_answer_in_words_is_read_at_the_end_unless_the_step_was_cut(finish: Finish, expected: str | None) -> None:
    state = answer(running(reference="7"), "x = 7", score=1.0)
    state = answer(state, "The answer is 7", score=1.0, finish=finish)
    assert (state.status, state.answer) == (Status.SUCCEEDED, expected)


def test_an_answer_in_words_does_not_end_the_solution() -> None:
    assert answer(running(), "The answer is 7.", score=1.0).status is Status.RUNNING


def test_a_draft_that_was_cut_may_be_escalated_and_the_solution_goes_on() -> None:
    state = answer(running(), "This makes 12", score=0.0, finish=Finish.LENGTH)
    state = answer(state, "This makes 12,345.")
    assert (state.status, [step.author for step in state.steps]) == (Status.RUNNING, [Author.LARGE])


@pytest.mark.parametrize("plan", [Plan(), LARGE_ONLY])
def test_a_large_step_that_was_cut_ends_the_solution(plan: Plan) -> None:
    state = running(plan=plan)
    if plan.drafts:
        state = answer(state, "bad", score=0.0)
    state = answer(state, "This makes 12", finish=Finish.LENGTH)
    assert (state.status, state.stop_reason) == (Status.SUCCEEDED, StopReason.STEP_CUT)


@pytest.mark.parametrize("texts", [("A", "A"), ("A", "B", "A", "B"), ("A", "B", "C", "a", "b", " c ")])
def test_a_draft_that_repeats_the_steps_before_it_ends_the_solution_if_it_is_accepted(texts: tuple[str, ...]) -> None:
    state = running()
    for text in texts:
        assert state.status is Status.RUNNING
        state = answer(state, text, score=1.0)
    assert (state.stop_reason, len(state.steps)) == (StopReason.REPEATED, len(texts))
    assert [record.observation.is_final for record in state.decisions] == [False] * (len(texts) - 1) + [True]


def test_a_draft_that_repeats_a_step_may_be_escalated_and_the_solution_goes_on() -> None:
    state = answer(answer(running(), "A", score=1.0), "A", score=0.0)
    state = answer(state, "B")
    assert (state.status, [step.text for step in state.steps]) == (Status.RUNNING, ["A", "B"])


def test_a_large_step_that_repeats_a_step_ends_the_solution() -> None:
    state = answer(answer(answer(running(), "A", score=1.0), "A", score=0.0), "A")
    assert (state.stop_reason, [step.author for step in state.steps]) == (
        StopReason.REPEATED,
        [Author.SMALL, Author.LARGE],
    )


@pytest.mark.parametrize(
    ("texts", "finish"),
    [(("a", "a"), Finish.SEPARATOR), (("a", "b"), Finish.LENGTH), ((ROOT, "---"), Finish.SEPARATOR)],
)
@pytest.mark.parametrize("lookahead", [1, 4])
def test_nothing_is_requested_past_a_stretch_that_ends_the_solution(
    texts: tuple[str, ...], finish: Finish, lookahead: int
) -> None:
    state = running(lookahead=lookahead)
    command = command_of(state)
    drafts = drafts_of(command, *texts, finish=finish)
    state = feed(state, generated(*drafts))
    assert next_commands(state) == (() if lookahead == 1 else (command,))
    state = feed(state, *(scored(draft, scores=(1.0,)) for draft in drafts))
    assert (state.status, state.due_at, next_commands(state)) == (Status.SUCCEEDED, None, ())


def test_a_stretch_goes_on_past_a_box_that_is_not_called_the_answer() -> None:
    state = running(lookahead=1)
    drafts = drafts_of(command_of(state), "a", ROOT)
    state = feed(state, generated(*drafts), scored(drafts[0], scores=(1.0,)))
    assert command_of(state).prefix == ("a", ROOT)
    assert state.due_at is not None
    assert command_of(feed(state, RequestOverdue(), now=state.due_at)).prefix == ("a",)


def test_a_large_step_that_the_budget_cuts_after_its_answer_ends_the_solution() -> None:
    state = answer(running(plan=Plan(large_budget=8)), "bad", score=0.0)
    (cut,) = drafts_of(command_of(state), "The answer is \\boxed{12} app", finish=Finish.LENGTH, tokens=8)
    state = feed(state, generated(cut, epoch=state.epoch))
    assert (state.stop_reason, state.answer, state.ledger.large_out) == (StopReason.FINAL_ANSWER, "12", 8)


@pytest.mark.parametrize("plan", [Plan(large_budget=8), Plan(drafts=False, scores=False, large_budget=8)])
def test_a_large_step_that_the_budget_cuts_is_written_by_the_small_model(plan: Plan) -> None:
    state = running(plan=plan)
    if plan.drafts:
        state = answer(state, "bad", score=0.0)
    command = command_of(state)
    assert (command.author, command.max_step_tokens) == (Author.LARGE, 8)
    (cut,) = drafts_of(command, "This makes 12", finish=Finish.LENGTH, tokens=8)
    state = feed(state, generated(cut, epoch=state.epoch))
    assert (state.status, command_of(state).author, command_of(state).prefix) == (Status.RUNNING, Author.SMALL, ())
    state = answer(state, "bad again", score=0.0)
    assert (state.decisions[-1].decision.reason, [step.author for step in state.steps]) == (
        "budget_spent",
        [Author.SMALL],
    )
    assert (state.ledger.large_out, state.ledger.large_wasted) == (0, 8)
