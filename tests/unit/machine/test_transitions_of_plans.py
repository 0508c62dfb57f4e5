"""Plans that change who writes: taking over, a budget, whole solutions, and steps without a draft."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from shared.domain.decisions import Action, DecidedBy, Decision, Observation
from shared.domain.options import Limits, Options, Plan
from shared.domain.roles import Author
from shared.domain.status import CONTEXT_FULL, Failure, Status
from shared.machine.commands import next_commands
from shared.machine.state import ControlEvent, ProblemAdmitted, RequestOverdue, State, new_state
from shared.machine.transitions import apply
from shared.messages import CancelWork, ProblemEvent
from tests.unit.machine.histories import (
    PROBLEM_ID,
    QUESTION,
    START,
    Deciding,
    answer,
    command_of,
    drafts_of,
    failed,
    feed,
    generated,
    running,
    scored,
)

TAKE_OVER = Plan(takes_over=True)


def reasons(state: State) -> list[tuple[int, str, str]]:
    """List the steps that were decided, by what, and why."""
    return [(each.step, each.decided_by.value, each.decision.reason) for each in state.decisions]


# --- taking over ------------------------------------------------------------------------------------------------------


def test_after_an_escalation_the_large_model_writes_the_rest_in_one_call() -> None:
    state = answer(running(plan=TAKE_OVER, limits=Limits(max_steps=5)), "good", score=0.9)
    state = answer(state, "bad", score=0.1)
    command = command_of(state)
    assert (command.author, command.prefix, command.max_steps) == (Author.LARGE, ("good",), 4)
    state = feed(state, generated(*drafts_of(command, "one", "two", "\\boxed{3}"), epoch=1))
    assert (state.status, state.answer) == (Status.SUCCEEDED, "3")
    assert [step.author.value for step in state.steps] == ["small", "large", "large", "large"]
    assert reasons(state) == [
        (0, "policy", "test"),
        (1, "policy", "test"),
        (2, "rule", "taken_over"),
        (3, "rule", "taken_over"),
    ]
    assert state.escalation_count == 3


def test_an_overdue_take_over_is_requested_again_from_the_first_step_that_is_missing() -> None:
    state = answer(running(plan=TAKE_OVER, limits=Limits(max_steps=5)), "bad", score=0.1)
    command = command_of(state)
    state = feed(state, generated(*drafts_of(command, "one"), epoch=1))
    assert next_commands(state)[-1] == command
    assert state.due_at is not None
    state = feed(state, RequestOverdue(), now=state.due_at)
    assert (command_of(state).author, command_of(state).prefix, command_of(state).max_steps) == (
        Author.LARGE,
        ("one",),
        4,
    )


# --- a budget ---------------------------------------------------------------------------------------------------------


def test_a_command_to_the_large_model_is_bounded_by_what_is_left_of_the_budget() -> None:
    state = answer(running(plan=Plan(large_budget=12)), "bad", score=0.1)
    assert command_of(state).max_step_tokens == 12
    state = answer(answer(state, "one"), "bad again", score=0.1)
    assert (state.ledger.large_out, command_of(state).max_step_tokens) == (5, 7)


def test_a_draft_is_accepted_where_the_budget_has_no_room_for_its_length() -> None:
    state = answer(answer(running(plan=Plan(large_budget=9)), "bad", score=0.1), "one")
    (draft,) = drafts_of(command_of(state), "bad again", tokens=5)
    state = feed(state, scored(draft, scores=(0.1,), epoch=1, prefix_scores=(0.9,)))
    record = state.decisions[-1]
    assert (record.decided_by, record.decision) == (
        DecidedBy.RULE,
        Decision(action=Action.ACCEPT, reason="budget_spent", value=5, compared_with=9),
    )
    assert [step.author for step in state.steps] == [Author.LARGE, Author.SMALL]


SPENT = Decision(action=Action.ACCEPT, reason="budget_spent", value=0, compared_with=4)
EXPLORED = Decision(action=Action.ACCEPT, reason="explored", propensity=0.25)


@pytest.mark.parametrize(
    ("budget", "decided_by", "decision"), [(5, DecidedBy.POLICY, EXPLORED), (4, DecidedBy.RULE, SPENT)]
)
def test_a_rule_decides_where_the_budget_leaves_exploration_no_choice(
    budget: int, decided_by: DecidedBy, decision: Decision
) -> None:
    state = new_state(problem_id=PROBLEM_ID, question=QUESTION, options=Options(plan=Plan(large_budget=budget)))
    policy = Deciding(lambda _: EXPLORED)
    state = apply(state, ProblemAdmitted(), policy=policy, now=START)
    (draft,) = drafts_of(command_of(state), "one", tokens=5)
    state = apply(state, scored(draft, scores=(0.9,)), policy=policy, now=START)
    assert (state.decisions[0].decided_by, state.decisions[0].decision) == (decided_by, decision)


def test_a_step_is_not_begun_by_the_large_model_with_less_than_a_mean_step_left() -> None:
    plan = Plan(skips_drafts=True, large_budget=9)
    state = new_state(problem_id=PROBLEM_ID, question=QUESTION, options=Options(plan=plan))
    policy = skipping(0, 1)
    state = apply(state, ProblemAdmitted(), policy=policy, now=START)
    state = apply(state, generated(*drafts_of(command_of(state), "one", tokens=5), epoch=1), policy=policy, now=START)
    assert (command_of(state).author, state.large_left) == (Author.SMALL, 4)


def test_without_a_budget_left_a_draft_that_the_policy_accepts_is_accepted_by_the_policy() -> None:
    state = answer(running(plan=Plan(large_budget=0)), "good", score=0.9)
    assert reasons(state) == [(0, "policy", "test")]


def test_a_plan_without_drafts_has_the_small_model_write_once_the_budget_is_spent() -> None:
    state = running(plan=Plan(drafts=False, scores=False, large_budget=6))
    assert (command_of(state).author, command_of(state).max_steps, command_of(state).max_step_tokens) == (
        Author.LARGE,
        1,
        6,
    )
    state = feed(state, generated(*drafts_of(command_of(state), "one", tokens=6)))
    assert (command_of(state).author, command_of(state).results_to) == (Author.SMALL, "events")
    state = answer(state, "\\boxed{1}")
    assert [step.author for step in state.steps] == [Author.LARGE, Author.SMALL]
    assert reasons(state)[-1] == (1, "rule", "budget_spent")


def test_taking_over_with_a_budget_goes_step_by_step_and_ends_with_it() -> None:
    state = answer(running(plan=Plan(takes_over=True, large_budget=10)), "bad", score=0.1)
    assert command_of(state).max_steps == 1
    state = answer(state, "one")
    assert (command_of(state).author, command_of(state).max_step_tokens) == (Author.LARGE, 5)
    state = answer(state, "two")
    assert command_of(state).author is Author.SMALL
    state = answer(state, "\\boxed{0}", score=0.1)
    assert reasons(state) == [
        (0, "policy", "test"),
        (1, "rule", "taken_over"),
        (2, "rule", "budget_spent"),
    ]


def test_a_large_step_that_used_the_budget_up_in_vain_is_written_by_the_small_model() -> None:
    state = answer(running(plan=Plan(large_budget=5)), "bad", score=0.1)
    (late,) = drafts_of(command_of(state), "...", tokens=5)
    state = feed(state, generated(late, epoch=0))
    assert (state.ledger.large_wasted, state.large_left) == (5, 0)
    assert state.due_at is not None
    state = feed(state, RequestOverdue(), now=state.due_at)
    assert command_of(state).author is Author.SMALL
    state = answer(state, "bad", score=0.1)
    assert reasons(state) == [(0, "policy", "test"), (0, "rule", "budget_spent")]


# --- whole solutions --------------------------------------------------------------------------------------------------

WHOLE = Plan(decides_whole=True, takes_over=True)


def least(observation: Observation) -> Decision:
    """Escalate if a score of the solution is missing or below 0.5."""
    scores = (*observation.previous_scores, observation.score, *observation.following_scores)
    accepts = all(score is not None and score >= 0.5 for score in scores)
    return Decision(action=Action.ACCEPT if accepts else Action.ESCALATE, reason="least")


def drafting_whole(*events: ProblemEvent | ControlEvent, **options: object) -> State:
    state = new_state(
        problem_id=PROBLEM_ID,
        question=QUESTION,
        options=Options(plan=WHOLE, **options),  # type: ignore[arg-type]
    )
    return then(state, ProblemAdmitted(), *events)


def then(state: State, *events: ProblemEvent | ControlEvent) -> State:
    for event in events:
        state = apply(state, event, policy=Deciding(least), now=START)
    return state


def test_nothing_is_decided_before_the_whole_solution_is_drafted_and_scored() -> None:
    state = drafting_whole(limits=Limits(max_steps=6))
    command = command_of(state)
    assert command.max_steps == 6
    drafts = drafts_of(command, "one", "two", "\\boxed{3}")
    state = then(state, scored(drafts[2], scores=(0.7,)), scored(drafts[0], scores=(0.9,)))
    assert (state.decisions, len(state.pending)) == ((), 2)
    state = then(state, scored(drafts[1], scores=(0.8,)))
    assert (state.status, state.answer) == (Status.SUCCEEDED, "3")
    assert [each.observation.following_scores for each in state.decisions] == [(0.8, 0.7), (0.7,), ()]


def test_one_low_score_has_the_large_model_write_the_whole_solution() -> None:
    state = drafting_whole(limits=Limits(max_steps=6))
    drafts = drafts_of(command_of(state), "one", "two", "\\boxed{3}")
    state = then(state, scored(*drafts, scores=(0.9, 0.2, 0.7)))
    command = command_of(state)
    assert (state.steps, command.author, command.prefix, command.max_steps) == ((), Author.LARGE, (), 6)
    assert (state.ledger.small_discarded, state.ledger.small_wasted) == (5, 10)
    state = then(state, generated(*drafts_of(command, "uno", "\\boxed{2}"), epoch=1))
    assert (state.answer, reasons(state)) == ("2", [(0, "policy", "least"), (1, "rule", "taken_over")])


@pytest.mark.parametrize(
    ("limits", "texts"),
    [
        (Limits(max_steps=2), ("one", "two")),
        (Limits(max_steps=9, max_tokens=10), ("one", "two")),
        (Limits(max_steps=9), ("one", "...")),
    ],
)
def test_a_solution_at_a_limit_or_without_words_is_whole(limits: Limits, texts: tuple[str, ...]) -> None:
    state = drafting_whole(limits=limits)
    state = then(state, scored(*drafts_of(command_of(state), *texts), scores=(0.9, 0.9)))
    assert state.status is Status.SUCCEEDED or command_of(state).author is Author.LARGE


@pytest.mark.parametrize("retryable", [True, False])
def test_a_failure_within_the_solution_has_the_drafts_before_it_decided(retryable: bool) -> None:
    state = drafting_whole(limits=Limits(max_steps=6))
    first, second = drafts_of(command_of(state), "one", "two")
    state = then(state, scored(first, scores=(0.9,)), failed(retryable=retryable, code=CONTEXT_FULL, step=2))
    assert state.steps == (), "the second draft is on its way"
    state = then(state, scored(second, scores=(0.9,)))
    assert [step.text for step in state.steps] == ["one", "two"]
    assert command_of(state).prefix == ("one", "two")
    state = drafting_whole(limits=Limits(max_steps=6))
    state = then(state, scored(first, second, scores=(0.9, 0.9)), failed(retryable=retryable, step=2))
    assert [step.text for step in state.steps] == ["one", "two"], "no further event may come"
    assert command_of(state).prefix == ("one", "two")


def test_a_part_that_the_prm_cannot_score_costs_attempts_and_ends_the_problem() -> None:
    """All drafts had arrived, so nothing was requested any more when the scores of the last ones failed."""
    state = drafting_whole(limits=Limits(max_steps=4), lookahead=4, max_attempts=3)
    for attempt in range(4):
        command = command_of(state)
        drafts = drafts_of(command, *[f"{attempt} {step}" for step in range(command.first_step, 4)])
        good, lost = [each for each in drafts if each.index < 2], [each for each in drafts if each.index >= 2]
        state = then(state, generated(*drafts))
        if good:
            state = then(state, scored(*good, scores=(0.9, 0.9)))
        failure = failed(
            retryable=True, name=f"{attempt}", step=2, request_number=command.request_number, lost=tuple(lost)
        )
        state = then(state, failure)
        if state.status is not Status.RUNNING:
            break
        if attempt:
            assert state.due_at is not None
            state = apply(state, RequestOverdue(), policy=Deciding(least), now=state.due_at)
    assert state.failure is not None
    assert (len(state.steps), state.failure.code, attempt) == (2, "attempts_exhausted", 3)


def test_a_failure_behind_a_draft_without_its_score_requests_nothing_by_itself() -> None:
    state = drafting_whole(limits=Limits(max_steps=6))
    first, second = drafts_of(command_of(state), "one", "two")
    state = then(state, generated(first, second))
    due_at = state.due_at
    state = then(state, failed(retryable=True, step=1, lost=(second,)))
    assert (next_commands(state), state.due_at) == ((), due_at)
    state = then(state, scored(first, scores=(0.9,)))
    assert ([step.text for step in state.steps], command_of(state).prefix) == (["one"], ("one",))


def test_of_two_failures_the_earlier_step_counts() -> None:
    state = drafting_whole(limits=Limits(max_steps=6))
    first, second = drafts_of(command_of(state), "one", "two")
    state = then(state, failed(retryable=True, step=1, lost=(second,)), failed(retryable=True, name="g", step=3))
    state = then(state, scored(first, scores=(0.9,)))
    assert command_of(state).prefix == ("one",)


def test_a_solution_that_is_cut_short_and_escalated_cancels_what_is_still_written() -> None:
    state = drafting_whole(limits=Limits(max_steps=6))
    first, second = drafts_of(command_of(state), "bad", "lost")
    state = then(state, scored(first, scores=(0.1,)), failed(retryable=True, step=1, lost=(second,)))
    assert next_commands(state)[0] == CancelWork(problem_id=PROBLEM_ID, epoch=1)


def test_a_whole_solution_is_accepted_where_the_budget_has_no_room_for_all_of_it() -> None:
    plan = Plan(decides_whole=True, takes_over=True, large_budget=44)
    state = new_state(problem_id=PROBLEM_ID, question=QUESTION, options=Options(plan=plan, limits=Limits(max_steps=3)))
    state = then(state, ProblemAdmitted())
    drafts = [
        replace(draft, tokens=tokens)
        for draft, tokens in zip(drafts_of(command_of(state), "a", "b", "c"), (20, 5, 20), strict=True)
    ]
    state = then(state, scored(*drafts, scores=(0.1, 0.1, 0.1)))
    assert reasons(state) == [(step, "rule", "budget_spent") for step in range(3)]


# --- steps without a draft --------------------------------------------------------------------------------------------

SKIPPING = Plan(skips_drafts=True)


def skipping(*steps: int) -> Deciding:
    """Return a policy that has the large model write some steps without a draft, and accepts all drafts."""
    escalated = Decision(action=Action.ESCALATE, reason="hopeless")
    return Deciding(
        decide=lambda _: Decision(action=Action.ACCEPT, reason="kept"),
        before_draft=lambda observation: escalated if observation.step in steps else None,
    )


def test_a_step_is_escalated_before_it_is_drafted() -> None:
    policy = skipping(0, 2)
    state = new_state(problem_id=PROBLEM_ID, question=QUESTION, options=Options(plan=SKIPPING, lookahead=4))
    state = apply(state, ProblemAdmitted(), policy=policy, now=START)
    assert (command_of(state).author, state.epoch) == (Author.LARGE, 1)
    state = apply(state, generated(*drafts_of(command_of(state), "large"), epoch=1), policy=policy, now=START)
    command = command_of(state)
    assert (command.author, command.max_steps, command.unscored_steps) == (Author.SMALL, 1, 1)
    (draft,) = drafts_of(command, "small")
    event = scored(draft, scores=(0.9,), epoch=1, prefix_scores=(0.8,))
    state = apply(state, event, policy=policy, now=START)
    assert (command_of(state).author, command_of(state).prefix, state.epoch) == (Author.LARGE, ("large", "small"), 2)
    assert apply(state, event, policy=policy, now=START) is state
    assert [(each.step, each.decision.reason, each.draft is None) for each in state.decisions] == [
        (0, "hopeless", True),
        (1, "kept", False),
        (2, "hopeless", True),
    ]
    assert state.decisions[2].observation.previous_scores == (0.8, 0.9)
    assert (state.decisions[2].observation.score, state.decisions[2].observation.draft_tokens) == (None, None)


def test_a_step_without_a_draft_that_is_overdue_is_requested_from_the_large_model_again() -> None:
    policy = skipping(0)
    state = new_state(problem_id=PROBLEM_ID, question=QUESTION, options=Options(plan=SKIPPING))
    state = apply(state, ProblemAdmitted(), policy=policy, now=START)
    again = apply(state, RequestOverdue(), policy=policy, now=START + timedelta(minutes=2))
    assert (command_of(again).author, again.decision_count) == (Author.LARGE, 1)


def test_without_a_budget_left_every_step_is_drafted() -> None:
    plan = Plan(skips_drafts=True, large_budget=0)
    state = new_state(problem_id=PROBLEM_ID, question=QUESTION, options=Options(plan=plan))
    state = apply(state, ProblemAdmitted(), policy=skipping(0), now=START)
    assert command_of(state).author is Author.SMALL


def test_a_duplicate_of_an_accepted_draft_has_no_second_decision() -> None:
    policy = skipping(1)
    state = new_state(problem_id=PROBLEM_ID, question=QUESTION, options=Options(plan=SKIPPING))
    state = apply(state, ProblemAdmitted(), policy=policy, now=START)
    (draft,) = drafts_of(command_of(state), "one")
    state = apply(state, scored(draft, scores=(0.9,)), policy=policy, now=START)
    assert state.is_escalating
    again = apply(state, generated(draft), policy=policy, now=START)
    assert (again.decision_count, again.epoch) == (state.decision_count, state.epoch)


# --- policies that raise, and numbers that are not finite -------------------------------------------------------------

UNSTORABLE = [
    {"value": math.nan},
    {"compared_with": math.inf},
    {"numbers": {"right": math.nan}},
    {"propensity": math.nan},
]


def assert_failed_by_the_policy(state: State) -> None:
    assert state.failure is not None
    assert (state.status, state.failure.code) == (Status.FAILED, "decision_not_finite")
    assert "The policy test" in state.failure.detail
    assert next_commands(state) == (CancelWork(problem_id=PROBLEM_ID, epoch=state.epoch),)
    assert state.ledger.small_kept == 0


@pytest.mark.parametrize("numbers", UNSTORABLE)
def test_a_decision_on_a_draft_that_no_row_can_hold_fails_the_problem(numbers: dict[str, Any]) -> None:
    policy = Deciding(lambda _: Decision(action=Action.ACCEPT, reason="broken", **numbers))
    state = running()
    (draft,) = drafts_of(command_of(state), "one")
    state = apply(state, scored(draft, scores=(0.9,)), policy=policy, now=START)
    assert_failed_by_the_policy(state)
    assert (state.decisions, state.ledger.small_wasted) == ((), draft.tokens)


def test_a_decision_before_a_draft_that_no_row_can_hold_fails_the_problem() -> None:
    broken = Decision(action=Action.ESCALATE, reason="broken", value=math.nan)
    for step in (0, 1):
        policy = Deciding(
            decide=lambda _: Decision(action=Action.ACCEPT, reason="kept"),
            before_draft=lambda observation, step=step: broken if observation.step == step else None,  # type: ignore[misc]
        )
        state = new_state(problem_id=PROBLEM_ID, question=QUESTION, options=Options(plan=SKIPPING))
        state = apply(state, ProblemAdmitted(), policy=policy, now=START)
        if step == 1:
            (draft,) = drafts_of(command_of(state), "one")
            state = apply(state, scored(draft, scores=(0.9,)), policy=policy, now=START)
        assert state.failure is not None
        assert (state.failure.code, state.request) == ("decision_not_finite", None)


def test_a_decision_on_a_large_step_that_no_row_can_hold_fails_the_problem() -> None:
    policy = Deciding(lambda _: Decision(action=Action.ESCALATE, reason="broken", value=math.nan))
    state = running(plan=Plan(drafts=False, scores=False))
    event = generated(*drafts_of(command_of(state), "one"))
    state = apply(state, event, policy=policy, now=START)
    assert_failed_by_the_policy(state)
    assert state.ledger.large_wasted == 5


def test_a_policy_that_raises_fails_the_problem_at_once_and_is_named() -> None:
    def crash(_: Observation) -> Decision:
        raise ZeroDivisionError

    crashing = Deciding(crash, before_draft=crash)
    undrafted = new_state(problem_id=PROBLEM_ID, question=QUESTION, options=Options(plan=SKIPPING))
    drafted, written = running(), running(plan=Plan(drafts=False, scores=False))
    for state, event in (
        (undrafted, ProblemAdmitted()),
        (drafted, scored(*drafts_of(command_of(drafted), "one"), scores=(0.9,))),
        (written, generated(*drafts_of(command_of(written), "one"))),
    ):
        ended = apply(state, event, policy=crashing, now=START)
        assert (ended.status, ended.decisions) == (Status.FAILED, ())
        assert ended.failure == Failure(
            code="policy_crashed",
            detail="The policy test raised ZeroDivisionError; submit with another version.",
        )
