"""Replays: a policy follows its own record to the end, leaves another's where it decides differently, and estimates are
right where the record explored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evaluation.replay import (
    LeftOut,
    RecordedDecision,
    RecordedProblem,
    decide_again,
    replay,
)
from evaluation.replay_figures import Label, figures, summary
from evaluation.replay_simulation import recorded_state
from shared.domain.decisions import Action, DecidedBy, Decision, Observation
from shared.domain.options import (
    Bridging,
    Options,
    Plan,
    WhenLargeAway,
    WhenPrmAway,
    WhenSmallAway,
    Wrappers,
)
from shared.domain.roles import WorkerRole
from shared.policies.registry import POLICIES, build_routing
from shared.policies.wrapping import Routing
from simulation.simulated_service import SimulatedService
from tests.unit.evaluation.replaying import (
    LIMITS,
    MODELS,
    PROBLEMS,
    SETTINGS,
    loaded,
    routing,
    simulate,
    solve,
    threshold,
)

EVERY = [
    pytest.param(name, parameters, wrappers, id=f"{name} {parameters} {wrappers}")
    for name, settings in SETTINGS.items()
    for parameters in settings
    for wrappers in ({}, {"epsilon": 0.5}, {"take_over": True}, {"budget": 60}, {"budget": 60, "epsilon": 0.5})
    if "epsilon" not in wrappers or not POLICIES[name].model_validate(parameters).plan.decides_whole
]


@pytest.mark.parametrize(("name", "parameters", "wrappers"), EVERY)
def test_every_policy_decides_again_what_was_stored(
    name: str, parameters: Mapping[str, Any], wrappers: Mapping[str, Any]
) -> None:
    policy = routing(name, parameters, Wrappers(**wrappers), **MODELS)
    problems = simulate(policy, lookahead=2)
    assert sum(len(each.decisions) for each in problems) > PROBLEMS
    for problem in problems:
        has_escalated = False
        for each in problem.decisions:
            if each.decided_by is DecidedBy.POLICY:
                decide = policy.decide if each.has_draft or not policy.plan.drafts else policy.before_draft
                assert decide(each.observation) == each.decision
            if name != "cascade" or "budget" not in wrappers:
                assert decide_again(policy, each, has_escalated=has_escalated) == each.decision
            has_escalated = has_escalated or each.decision.action is Action.ESCALATE
        assert replay(policy, problem).agrees or replay(policy, problem).left_out is LeftOut.NO_WHOLE_SOLUTIONS


@pytest.mark.parametrize(
    ("role", "bridging", "reason", "other"),
    [
        (WorkerRole.PRM, Bridging(when_prm_away=WhenPrmAway.ACCEPT, away_patience_s=0), "prm_away", "confidence"),
        (WorkerRole.PRM, Bridging(when_prm_away=WhenPrmAway.ESCALATE, away_patience_s=0), "prm_away", "confidence"),
        (WorkerRole.LARGE, Bridging(when_large_away=WhenLargeAway.ACCEPT, away_patience_s=0), "large_away", None),
        (WorkerRole.SMALL, Bridging(when_small_away=WhenSmallAway.LARGE_ONLY, away_patience_s=0), "small_away", None),
    ],
)
def test_a_rule_that_bridged_an_absence_overrules_every_policy_that_needs_the_role(
    role: WorkerRole, bridging: Bridging, reason: str, other: str | None
) -> None:
    service = SimulatedService(loaded().workers)
    policy = threshold(0.5)
    problem_id = service.submit("What is 6 times 7?", policy.policy, Options(limits=LIMITS, bridging=bridging))
    service.take_away(role, for_s=1e6)
    service.sweep()
    while service.turn() and not service.state(problem_id).status.is_final:
        pass
    problem = recorded_state(service.state(problem_id))
    assert reason in {each.decision.reason for each in problem.decisions}
    assert replay(policy, problem).agrees
    if other is not None:
        bridged = next(each for each in problem.decisions if each.decision.reason == reason)
        assert decide_again(routing(other, {"threshold": 0.5}), bridged, has_escalated=False) != bridged.decision


BUDGETED = [
    ("threshold", {"threshold": 0.5}),
    ("threshold", {"threshold": 0.8}),
    ("confidence", {"threshold": 0.3}),
    ("large-only", {}),
    ("small-only", {}),
    ("cascade", {"threshold": 0.4}),
    ("pomdp", {"draft_token_price": 0.01, "large_token_price": 0.0}),
]


def test_a_policy_that_follows_a_record_with_any_budget_gets_the_same_solution_in_its_own_run() -> None:
    policies = [
        routing(name, parameters, Wrappers(budget=budget, take_over=takes_over), **MODELS)
        for name, parameters in BUDGETED
        for budget in (None, 20, 30, 60)
        for takes_over in (False, True)
        if name != "cascade" or takes_over
    ]
    solved = [solve(each) for each in policies]
    records = [[recorded_state(each) for each in states] for states in solved]
    followed = 0
    for policy, own in zip(policies, solved, strict=True):
        for record, states in zip(records, solved, strict=True):
            for problem, other, mine in zip(record, states, own, strict=True):
                if replay(policy, problem).agrees:
                    followed += problem.plan != policy.plan and problem.large_tokens > 0
                    found, expected = (
                        [(step.author, step.text, step.tokens) for step in each.steps] for each in (other, mine)
                    )
                    assert found == expected, (policy, problem.plan, problem.problem_id)
    assert followed > 500


@pytest.mark.parametrize(
    ("budget", "recorded_budget", "is_cut"),
    [(10, None, True), (11, None, False), (None, 10, True), (None, 11, False), (11, 10, True), (10, 10, False)],
)
def test_a_large_step_that_one_of_two_budgets_may_have_cut_is_a_divergence_without_weight(
    budget: int | None, recorded_budget: int | None, *, is_cut: bool
) -> None:
    problem = made([Action.ESCALATE], scores=[0.1], propensities=[0.25], spent=10)
    problem = replace(problem, plan=Plan(large_budget=recorded_budget))
    found = replay(threshold(0.5, budget=budget), problem)
    assert (found.agrees, found.weight) == ((False, None) if is_cut else (True, 4))
    assert [each["is_cut"] for each in summary([found])["divergences"]] == [True] * is_cut


def test_lost_tokens_count_for_what_was_left_of_the_recorded_budget() -> None:
    problem = replace(made([Action.ESCALATE], scores=[0.1], spent=10), plan=Plan(large_budget=15))
    assert replay(threshold(0.5), problem).agrees
    assert not replay(threshold(0.5), replace(problem, lost_large_tokens=5)).agrees


def test_a_replay_ends_at_the_first_other_decision() -> None:
    problem = simulate(threshold(0.3))[0]
    scores = [each.observation.score for each in problem.decisions]
    place = next(index for index, score in enumerate(scores) if score is not None and 0.3 <= score < 0.7)
    found = replay(threshold(0.7), problem)
    assert found.divergence is not None
    assert found.divergence.recorded == problem.decisions[place]
    assert found.compared == place + 1
    assert found.divergence.decision is not None
    assert found.divergence.decision.action is Action.ESCALATE


@pytest.mark.parametrize(
    ("policy", "record", "reason"),
    [
        (threshold(0.5), ("large-only", {}), LeftOut.NO_DRAFTS),
        (threshold(0.5), ("small-only", {}), LeftOut.NO_SCORES),
        (build_routing("confidence", {}, Wrappers()), ("threshold", {}), LeftOut.NO_LOG_PROBABILITIES),
        (build_routing("cascade", {}, Wrappers()), ("threshold", {}), LeftOut.NO_WHOLE_SOLUTIONS),
        (routing("pomdp", {}, small="a", large="b", prm="c"), ("threshold", {}), LeftOut.OTHER_MODELS),
    ],
)
def test_a_problem_whose_record_lacks_what_the_policy_needs_is_left_out(
    policy: Routing, record: tuple[str, Mapping[str, Any]], reason: LeftOut
) -> None:
    problems = simulate(routing(*record, **MODELS))
    found = [replay(policy, each) for each in problems]
    assert {each.left_out for each in found} == {reason}
    accuracy = figures(found)["accuracy"]
    assert (accuracy.label, accuracy.value) == (Label.LEFT_OUT, None)
    assert summary(found)["left_out"] == {str(reason): PROBLEMS}


def test_a_problem_without_record_or_end_or_known_policy_is_left_out() -> None:
    problem = simulate(threshold(0.5))[0]
    assert replay(threshold(0.5), replace(problem, decisions=())).left_out is LeftOut.NO_RECORD
    assert replay(threshold(0.5), replace(problem, has_ended=False)).left_out is LeftOut.NOT_ENDED
    assert replay(threshold(0.5), replace(problem, plan=None)).left_out is LeftOut.UNKNOWN_POLICY


def test_large_only_follows_a_record_whose_drafts_were_all_escalated() -> None:
    problem = made([Action.ESCALATE] * 3, scores=[0.1, 0.2, 0.3])
    assert replay(build_routing("large-only", {}, Wrappers()), problem).agrees


def test_a_policy_that_drafts_leaves_the_record_where_the_large_model_took_over() -> None:
    problems = simulate(threshold(0.5, take_over=True))
    found = [replay(threshold(0.5), each) for each in problems]
    diverging = [each for each in found if each.divergence is not None]
    assert diverging
    assert {each.divergence.recorded.decision.reason for each in diverging if each.divergence} == {"taken_over"}
    assert all(each.divergence.decision is None for each in diverging if each.divergence)


def made(
    actions: Sequence[Action],
    *,
    scores: Sequence[float],
    propensities: Sequence[float] | None = None,
    solved: bool | None = True,
    spent: int = 10,
    question: str = "q",
) -> RecordedProblem:
    chances = propensities or [1.0] * len(actions)
    return RecordedProblem(
        problem_id="1",
        question=question,
        plan=Plan(),
        explores=propensities is not None,
        has_ended=True,
        is_solved=solved,
        large_tokens=spent,
        lost_large_tokens=0,
        decisions=[
            RecordedDecision(
                number=step,
                step=step,
                observation=Observation(step=step, score=scores[step], draft_tokens=5, previous_tokens=(5,) * step),
                decision=Decision(action=action, reason="explored", propensity=chances[step]),
                decided_by=DecidedBy.POLICY,
                models={},
            )
            for step, action in enumerate(actions)
        ],
    )


def test_figures_of_a_record_that_the_policy_follows_are_exact() -> None:
    problems = [
        made([Action.ACCEPT, Action.ESCALATE], scores=[0.9, 0.1], spent=30, question="a"),
        made([Action.ACCEPT], scores=[0.9], solved=False, spent=0, question="b"),
    ]
    found = figures([replay(threshold(0.5), each) for each in problems])
    assert {figure.label for figure in found.values()} == {Label.EXACT}
    assert {name: figure.value for name, figure in found.items()} == {
        "agreement": 1.0,
        "escalation_rate": 1 / 3,
        "accuracy": 0.5,
        "large_tokens": 15.0,
    }


def test_where_solutions_part_from_a_record_without_exploration_only_agreement_is_exact() -> None:
    problems = [made([Action.ACCEPT, Action.ACCEPT], scores=[0.9, 0.1]), made([Action.ACCEPT], scores=[0.9])]
    found = figures([replay(threshold(0.5), each) for each in problems])
    assert (found["agreement"].label, found["agreement"].value) == (Label.EXACT, 2 / 3)
    for name in ("escalation_rate", "accuracy", "large_tokens"):
        assert (found[name].label, found[name].value) == (Label.LEFT_OUT, None)
        assert "1 of 2 problems" in str(found[name].reason)


def test_weights_are_products_of_ratios_and_figures_are_self_normalised() -> None:
    agree, accept = made([Action.ESCALATE, Action.ACCEPT], scores=[0.1, 0.9], propensities=[0.25, 0.75]), Action.ACCEPT
    other = made([accept, accept], scores=[0.9, 0.9], propensities=[0.75, 0.75], solved=False, spent=0, question="b")
    parted = made([accept, accept], scores=[0.1, 0.9], propensities=[0.75, 0.75], question="c")
    found = [replay(threshold(0.5), each) for each in (agree, other, parted)]
    weights = [1 / (0.25 * 0.75), 1 / 0.75**2, 0.0]
    assert [each.weight for each in found] == pytest.approx(weights)
    accuracy = figures(found)["accuracy"]
    assert accuracy.label is Label.WEIGHTED
    assert accuracy.value == pytest.approx(weights[0] / sum(weights))
    assert accuracy.effective_problems == pytest.approx(sum(weights) ** 2 / sum(each**2 for each in weights))
    assert accuracy.mean_weight == pytest.approx(sum(weights) / 3)
    rate = figures(found)["escalation_rate"]
    assert (rate.label, rate.effective_problems) == (Label.WEIGHTED, accuracy.effective_problems)
    assert rate.value == pytest.approx(weights[0] / (2 * sum(weights)))


def test_a_weighted_figure_that_rests_on_one_question_of_three_has_no_interval() -> None:
    agree = made([Action.ESCALATE], scores=[0.1], propensities=[0.25], question="a")
    parted = [made([Action.ACCEPT], scores=[0.1], propensities=[0.75], question=name) for name in "bc"]
    accuracy = figures([replay(threshold(0.5), each) for each in (agree, *parted)])["accuracy"]
    assert (accuracy.value, accuracy.low, accuracy.high) == (1, None, None)
    assert accuracy.undefined == pytest.approx((2 / 3) ** 3, abs=0.05)


def test_an_action_that_the_record_could_not_have_taken_has_no_weight() -> None:
    problem = made([Action.ACCEPT, Action.ACCEPT], scores=[0.9, 0.1], propensities=[0.75, 1.0])
    found = replay(threshold(0.5), problem)
    assert found.weight is None
    assert summary([found])["unsupported"] == 1
    assert figures([found])["accuracy"].label is Label.LEFT_OUT


def test_one_problem_without_a_weight_leaves_out_the_weighted_figures() -> None:
    follows = made([Action.ACCEPT], scores=[0.9], propensities=[0.75], spent=0, question="a")
    cannot = made([Action.ACCEPT], scores=[0.1], propensities=[1.0], question="b")
    found = [replay(threshold(0.5), each) for each in (follows, follows, cannot)]
    assert [each.weight for each in found] == [pytest.approx(4 / 3), pytest.approx(4 / 3), None]
    tokens = figures(found)["large_tokens"]
    assert (tokens.label, tokens.value) == (Label.LEFT_OUT, None)
    assert "1 of 3 problems, and 1 have no weight" in str(tokens.reason)


def test_a_policy_that_explores_itself_has_the_weight_of_both_actions() -> None:
    problem = made([Action.ACCEPT], scores=[0.1], propensities=[0.25])
    found = replay(threshold(0.5, epsilon=0.2), problem)
    assert found.weight == pytest.approx(0.1 / 0.25)


def test_accuracy_without_references_is_left_out_and_large_tokens_are_not() -> None:
    found = figures([replay(threshold(0.5), made([Action.ACCEPT], scores=[0.9], solved=None))])
    assert (found["accuracy"].label, found["large_tokens"].label) == (Label.LEFT_OUT, Label.EXACT)


def test_a_weighted_figure_is_what_a_run_of_the_policy_gives() -> None:
    """Steps are right with their score as probability, or with 0.95 where the large model writes them."""
    rng = np.random.default_rng(7)

    def solve(policy: Routing, number: int) -> RecordedProblem:
        scores = rng.random(3)
        actions, chances, is_right, spent = [], [], True, 0
        for step, score in enumerate(scores):
            seen = Observation(step=step, score=float(score), draft_tokens=5, seed=number)
            decision = policy.decide(seen)
            escalates = decision.action is Action.ESCALATE
            is_right = is_right and bool(rng.random() < (0.95 if escalates else score))
            actions.append(decision.action)
            chances.append(decision.propensity)
            spent += 10 * escalates
        return made(actions, scores=scores.tolist(), propensities=chances, solved=is_right, spent=spent,
                    question=str(number))  # fmt: skip

    logged = [solve(threshold(0.3, epsilon=0.6), number) for number in range(1500)]
    truth = [solve(threshold(0.6), number) for number in range(1500)]
    found = figures([replay(threshold(0.6), each) for each in logged])
    for name, expected in (
        ("accuracy", np.mean([each.is_solved for each in truth])),
        ("large_tokens", np.mean([each.large_tokens for each in truth])),
        ("escalation_rate", np.mean([each.escalations / 3 for each in truth])),
    ):
        figure = found[name]
        assert figure.label is Label.WEIGHTED
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low - 0.04 * expected < expected < figure.high + 0.04 * expected
    assert found["accuracy"].effective_problems is not None
    assert 100 < found["accuracy"].effective_problems < 1500
