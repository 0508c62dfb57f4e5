"""Problems go on without a role that is away, each mode as declared, and with it again once it is back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.decisions import Action, DecidedBy
from shared.domain.options import Bridging, Plan, WhenLargeAway, WhenPrmAway, WhenSmallAway
from shared.domain.roles import Author, WorkerRole
from shared.domain.status import Status
from shared.machine.commands import next_commands
from shared.machine.state import RequestOverdue, RolesAway, State
from shared.messages import CancelWork
from shared.policies.wrapping import Routing
from simulation.world import World
from tests.unit.machine.histories import START, answer, command_of, drafts_of, feed, generated, running, scored
from tests.unit.machine.test_waiting_for_roles import outages, through
from tests.unit.machine.worlds import BUDGETED, POLICIES, OneProblem, limits, lookaheads, worlds

SMALL, LARGE, PRM = WorkerRole.SMALL, WorkerRole.LARGE, WorkerRole.PRM
PATIENCE_S = 30.0
LATER = START + timedelta(seconds=PATIENCE_S)
ACCEPT_UNSCORED = Bridging(when_prm_away=WhenPrmAway.ACCEPT, away_patience_s=PATIENCE_S)
ESCALATE_UNSCORED = Bridging(when_prm_away=WhenPrmAway.ESCALATE, away_patience_s=PATIENCE_S)
ACCEPT_ESCALATIONS = Bridging(when_large_away=WhenLargeAway.ACCEPT, away_patience_s=PATIENCE_S)
FAIL = Bridging(when_large_away=WhenLargeAway.FAIL, away_patience_s=PATIENCE_S)
LARGE_ONLY = Bridging(when_small_away=WhenSmallAway.LARGE_ONLY, away_patience_s=PATIENCE_S)


def away(*roles: WorkerRole) -> RolesAway:
    return RolesAway(dict.fromkeys(roles, START))


def ruled(state: State) -> list[tuple[int, str, str]]:
    """Return the decisions that rules took: step, action, reason."""
    rules = [each for each in state.decisions if each.decided_by is DecidedBy.RULE]
    return [(each.step, each.decision.action.value, each.decision.reason) for each in rules]


def out_of_patience(state: State, *roles: WorkerRole) -> State:
    """Tell a problem what is away, and again when it is due for that."""
    state = feed(state, away(*roles))
    assert state.due_at == LATER
    return feed(state, away(*roles), RequestOverdue(), now=LATER)


def test_nothing_is_bridged_before_the_patience_is_over() -> None:
    state = feed(running(bridging=ACCEPT_UNSCORED), away(PRM), away(PRM))
    assert feed(state, RequestOverdue(), away(PRM), now=LATER - timedelta(seconds=1)) is state
    assert (ruled(state), state.request_count, command_of(state).results_to) == ([], 1, "prm")


def test_a_patience_that_ends_while_nobody_knows_what_is_away_bridges_nothing() -> None:
    state = feed(running(bridging=ACCEPT_UNSCORED), away(PRM))
    state = feed(state, RequestOverdue(), now=LATER)
    assert (state.request_count, state.due_at) == (1, LATER + timedelta(seconds=60))


def test_without_a_prm_drafts_are_accepted_unscored_one_at_a_time() -> None:
    state = out_of_patience(running(bridging=ACCEPT_UNSCORED, lookahead=None), PRM)
    command = command_of(state)
    assert (command.results_to, command.max_steps, state.waits_for, state.attempts) == ("events", 1, (), 0)
    state = answer(answer(state, "one"), "two")
    assert ruled(state) == [(0, "accept", "prm_away"), (1, "accept", "prm_away")]
    assert [step.score for step in state.steps] == [None, None]
    state = feed(state, away(), now=LATER)
    assert command_of(state).results_to == "events", "the step that is out comes unscored"
    state = answer(state, "three")
    assert (command_of(state).results_to, ruled(state)[-1]) == ("prm", (2, "accept", "prm_away"))
    assert answer(state, "bad", score=0.1).decisions[-1].decided_by is DecidedBy.POLICY


def test_drafts_whose_scores_are_missing_are_accepted_and_the_late_scores_are_booked() -> None:
    state = running(bridging=ACCEPT_UNSCORED, lookahead=1)
    drafts = drafts_of(command_of(state), "one", "two")
    state = out_of_patience(feed(state, generated(*drafts)), PRM)
    assert ([step.text for step in state.steps], command_of(state).first_step) == (["one", "two"], 2)
    after = feed(state, scored(*drafts, scores=(1.0, 1.0)))
    assert (after.ledger.prm_calls, after.ledger.small_kept, after.steps) == (1, 10, state.steps)


def test_drafts_with_an_answer_end_a_problem_without_scores() -> None:
    state = running(bridging=ACCEPT_UNSCORED, lookahead=1)
    drafts = drafts_of(command_of(state), "one", "\\boxed{42}")
    state = out_of_patience(feed(state, generated(*drafts)), PRM)
    assert (state.status, state.answer) == (Status.SUCCEEDED, "42")


def test_a_plan_that_decides_whole_solutions_decides_one_without_scores() -> None:
    state = running(plan=Plan(decides_whole=True), bridging=ACCEPT_UNSCORED)
    state = out_of_patience(state, PRM)
    drafts = drafts_of(command_of(state), "one", "\\boxed{42}")
    state = feed(state, generated(*drafts))
    assert (state.status, ruled(state)) == (Status.SUCCEEDED, [(0, "accept", "prm_away"), (1, "accept", "prm_away")])


def test_without_a_prm_steps_are_escalated_undrafted() -> None:
    state = out_of_patience(running(bridging=ESCALATE_UNSCORED), PRM)
    assert (command_of(state).author, state.epoch, ruled(state)) == (Author.LARGE, 1, [(0, "escalate", "prm_away")])
    assert (state.decisions[0].draft, state.waits_for) == (None, ())
    state = answer(state, "one")
    assert (command_of(state).author, ruled(state)[1:]) == (Author.LARGE, [(1, "escalate", "prm_away")])
    state = answer(feed(state, away(), now=LATER), "two")
    assert (command_of(state).author, command_of(state).results_to, len(state.decisions)) == (Author.SMALL, "prm", 2)


def test_without_a_prm_and_a_budget_drafts_are_accepted_unscored() -> None:
    state = out_of_patience(running(plan=Plan(large_budget=0), bridging=ESCALATE_UNSCORED), PRM)
    assert (command_of(state).author, command_of(state).results_to) == (Author.SMALL, "events")
    assert ruled(answer(state, "one")) == [(0, "accept", "budget_spent")]


def test_without_a_large_model_escalations_are_accepted_until_it_is_back() -> None:
    state = answer(running(bridging=ACCEPT_ESCALATIONS), "bad", score=0.1)
    state = out_of_patience(state, LARGE)
    command = command_of(state)
    assert (command.author, command.results_to, state.epoch, state.attempts) == (Author.SMALL, "prm", 1, 0)
    state = answer(state, "bad again", score=0.2)
    assert ruled(state) == [(0, "accept", "large_away")]
    state = answer(answer(state, "good", score=0.9), "bad", score=0.1)
    assert ([step.author for step in state.steps], ruled(state)[1:]) == (
        [Author.SMALL] * 3,
        [(2, "accept", "large_away")],
    )
    state = answer(feed(state, away(), now=LATER), "bad", score=0.1)
    assert (command_of(state).author, state.escalation_count) == (Author.LARGE, 2)


def test_a_large_step_that_comes_all_the_same_is_taken_and_drafts_in_its_place_are_abandoned() -> None:
    state = answer(running(bridging=ACCEPT_ESCALATIONS, lookahead=1, max_attempts=1), "bad", score=0.1)
    large = drafts_of(command_of(state), "right")
    state = out_of_patience(state, LARGE)
    drafts = drafts_of(command_of(state), "bad again", "and worse")
    state = feed(state, generated(*large, epoch=1), now=LATER)
    command = command_of(state)
    assert ([step.text for step in state.steps], command.first_step, command.author) == (["right"], 1, Author.SMALL)
    after = feed(state, scored(*drafts, scores=(0.2, 0.2), epoch=1), now=LATER)
    assert (after.steps, after.request, after.ledger.small_wasted) == (state.steps, state.request, 10)


@pytest.mark.parametrize("are_together", [True, False])
def test_large_steps_that_come_all_the_same_are_all_taken_however_they_come(are_together: bool) -> None:
    state = answer(running(plan=Plan(takes_over=True), bridging=ACCEPT_ESCALATIONS), "bad", score=0.1)
    large = drafts_of(command_of(state), "one", "two", "three")
    state = feed(out_of_patience(state, LARGE), away(), now=LATER)
    assert command_of(state).author is Author.SMALL
    events = [generated(*large, epoch=1)] if are_together else [generated(each, epoch=1) for each in large]
    state = feed(state, *events, now=LATER)
    assert ([step.text for step in state.steps], state.ledger.large_wasted) == (["one", "two", "three"], 0)


def test_a_solution_that_the_large_model_took_over_is_drafted_while_it_is_away() -> None:
    state = answer(running(plan=Plan(takes_over=True), bridging=ACCEPT_ESCALATIONS), "bad", score=0.1)
    state = answer(out_of_patience(state, LARGE), "bad again", score=0.2)
    assert (command_of(state).author, ruled(state)) == (Author.SMALL, [(0, "accept", "large_away")])
    state = answer(feed(state, away(), now=LATER), "good", score=0.9)
    assert command_of(state).author is Author.LARGE


def test_without_a_large_model_a_problem_fails_if_it_is_to() -> None:
    state = out_of_patience(answer(running(bridging=FAIL), "bad", score=0.1), LARGE)
    assert state.failure is not None
    assert (state.status, state.failure.code) == (Status.FAILED, "large_away")
    assert "30 s" in state.failure.detail
    assert [type(each) for each in next_commands(state)] == [CancelWork]


def test_without_a_small_model_the_large_one_writes() -> None:
    state = out_of_patience(running(bridging=LARGE_ONLY), SMALL)
    assert (command_of(state).author, ruled(state)) == (Author.LARGE, [(0, "escalate", "small_away")])
    state = answer(answer(state, "one"), "two")
    assert [reason for _, _, reason in ruled(state)] == ["small_away"] * 3
    state = answer(feed(state, away(), now=LATER), "three")
    assert command_of(state).author is Author.SMALL


def test_a_problem_without_a_budget_waits_for_the_small_model() -> None:
    state = out_of_patience(running(plan=Plan(large_budget=0), bridging=LARGE_ONLY), SMALL)
    assert ([each.role for each in state.waits_for], state.due_at, ruled(state)) == ([SMALL], None, [])
    state = feed(state, away(), now=LATER)
    assert (state.waits_for, state.request_count) == ((), 1)


def test_a_problem_without_prm_and_large_model_is_drafted_and_accepted() -> None:
    bridging = Bridging(
        when_prm_away=WhenPrmAway.ESCALATE, when_large_away=WhenLargeAway.ACCEPT, away_patience_s=PATIENCE_S
    )
    state = out_of_patience(running(bridging=bridging), PRM)
    state = feed(state, away(PRM, LARGE), now=LATER)
    assert (command_of(state).author, command_of(state).results_to) == (Author.SMALL, "events")
    assert ruled(answer(state, "one")) == [(0, "escalate", "prm_away"), (0, "accept", "large_away")]


@pytest.mark.parametrize(
    ("bridging", "plan", "roles"),
    [
        (ACCEPT_ESCALATIONS, Plan(drafts=False, scores=False), [LARGE]),
        (LARGE_ONLY, Plan(escalates=False), [SMALL]),
        (ESCALATE_UNSCORED, Plan(escalates=False), [PRM]),
    ],
)
def test_a_mode_that_the_plan_cannot_carry_out_has_the_problem_wait(
    bridging: Bridging, plan: Plan, roles: Sequence[WorkerRole]
) -> None:
    state = feed(running(bridging=bridging, plan=plan), away(*roles), now=LATER)
    assert ([each.role for each in state.waits_for], state.due_at, state.decisions) == (list(roles), None, ())


bridgings = st.builds(
    Bridging,
    when_prm_away=st.sampled_from(WhenPrmAway),
    when_large_away=st.sampled_from([WhenLargeAway.WAIT, WhenLargeAway.ACCEPT]),
    when_small_away=st.sampled_from(WhenSmallAway),
    away_patience_s=st.sampled_from([0.0, 60.0]),
)


@settings(max_examples=150, deadline=None)
@given(
    world=worlds,
    policy=st.sampled_from([*POLICIES.values(), *BUDGETED.values()]),
    options=st.fixed_dictionaries({"lookahead": lookaheads, "limits": limits, "bridging": bridgings}),
    absences=outages,
)
def test_bridged_problems_succeed_and_name_the_roles_that_were_away(
    world: World, policy: Routing, options: dict[str, Any], absences: list[tuple[int, WorkerRole, float]]
) -> None:
    ended = through(OneProblem(world, policy, max_attempts=1, **options), absences)
    assert ended.status is Status.SUCCEEDED or (ended.failure is not None and ended.failure.code == "no_output")
    reasons = {each.decision.reason for each in ended.decisions if each.decision.reason.endswith("_away")}
    assert reasons <= {f"{role}_away" for _, role, _ in absences}
    for record in ended.decisions:
        # A draft is escalated without a score where it is shorter than the mean step, for which the budget has no room.
        if record.decision.reason in {"prm_away", "small_away"} and policy.wrappers.budget is None:
            assert record.draft is None or record.decision.action is Action.ACCEPT
