"""Learned policies: what their networks see and compute, where the cut is, and which artefacts they refuse."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from shared.domain.decisions import Action, Observation
from shared.machine.state import State
from shared.machine.transitions import apply
from shared.policies.artefact import Artefact, BadArtefact
from shared.policies.learned.aggregate import AggregatePolicy, features
from shared.policies.learned.layers import LEAST_SCALE, MAX_WEIGHT, log_odds, surprise
from shared.policies.learned.policy import LearnedPolicy
from shared.policies.learned.sequence import WINDOW, inputs
from shared.store.rows import decision_values
from tests.unit.machine.histories import PROBLEM_ID, START, answer, command_of, drafts_of, running, scored
from tests.unit.policies.learned import CARD, GOLDEN, POLICIES, SHAPES, SOLUTIONS, arrays, artefact, fitted, solution

FITTED = {name: fitted(name) for name in POLICIES}

quick = settings(max_examples=50, deadline=None, derandomize=True, database=None)
names = st.sampled_from(sorted(POLICIES))
scores = st.none() | st.floats(0, 1)
steps = st.lists(st.tuples(scores, st.integers(0, 4096)), max_size=40)
observations = st.builds(
    lambda steps, are_tokens_known, **seen: Observation(
        step=len(steps),
        previous_scores=tuple(score for score, _ in steps),
        previous_tokens=tuple(tokens for _, tokens in steps) if are_tokens_known else (),
        **seen,
    ),
    steps,
    st.booleans(),
    score=scores,
    draft_tokens=st.none() | st.integers(0, 4096),
    mean_logprob=st.none() | st.floats(-1e6, 0),
)


# --- what the networks see --------------------------------------------------------------------------------------------


def test_the_aggregate_network_sees_least_and_product_of_earlier_scores_and_the_draft() -> None:
    seen = Observation(step=6, score=0.75, previous_scores=(0.5, None, 0.25), draft_tokens=150, mean_logprob=-0.25)
    assert features(seen) == (log_odds(0.25), log_odds(0.125), log_odds(0.75), 0.5, 0.2, math.log(0.25))


@pytest.mark.parametrize(
    ("mean_logprob", "expected"), [(None, 1e-5), (0.0, 1e-5), (0.01, 1e-5), (-1e-6, 1e-5), (-2.0, 2.0), (-1e9, 1e5)]
)
def test_surprises_have_a_range_and_a_draft_without_log_probabilities_is_expected(
    mean_logprob: float | None, expected: float
) -> None:
    assert surprise(mean_logprob) == math.log(expected)


def test_the_first_draft_has_no_earlier_scores() -> None:
    assert features(Observation(step=0, score=0.5, draft_tokens=30))[:5] == (10.0, 10.0, 0.0, 0.1, 0.0)


@pytest.mark.parametrize("step", [30, 31, 199])
def test_the_index_is_clipped_where_the_unit_ends_and_tokens_are_not(step: int) -> None:
    assert features(Observation(step=step, score=0.5, draft_tokens=600))[3:5] == (2.0, 1.0)


def test_the_sequence_network_sees_score_and_tokens_of_each_step_and_the_surprise_of_the_draft() -> None:
    seen = Observation(
        step=2, score=0.75, previous_scores=(0.5, 0.25), previous_tokens=(300, 30), draft_tokens=150, large_out=30,
        mean_logprob=-0.25,
    )  # fmt: skip
    assert inputs(seen) == ([0.0, log_odds(0.25), log_odds(0.75)], [1.0, 0.1, 0.5], [math.log(0.25)] * 3)


def test_a_missing_score_of_an_earlier_step_changes_nothing_and_one_of_the_draft_counts_as_wrong() -> None:
    seen = Observation(step=1, score=None, previous_scores=(None,), previous_tokens=(60,), draft_tokens=None)
    assert inputs(seen)[:2] == ([10.0, -10.0], [0.2, 0.0])
    assert features(seen)[:5] == (10.0, 10.0, -10.0, 0.0, 1 / 30)


def test_steps_whose_tokens_were_not_recorded_count_as_empty() -> None:
    seen = Observation(step=2, score=0.75, previous_scores=(0.5, 0.25), draft_tokens=150)
    assert inputs(seen)[1] == [0.0, 0.0, 0.5]


def test_the_sequence_network_sees_the_latest_steps_of_a_long_solution() -> None:
    [*_, last] = solution(WINDOW + 5)
    other = replace(last, previous_scores=(0.5,) * 5 + last.previous_scores[5:])
    assert [len(each) for each in inputs(last)] == [WINDOW] * 3
    assert FITTED["sequence"].decide(last) == FITTED["sequence"].decide(other)
    within = replace(last, previous_scores=last.previous_scores[:5] + (0.0,) * (WINDOW - 1))
    assert FITTED["sequence"].decide(last) != FITTED["sequence"].decide(within)


@pytest.mark.parametrize(
    ("score", "odds"),
    [(0.0, -10.0), (1e-300, -10.0), (0.5, 0.0), (0.75, np.log(3)), (0.99999, 10.0), (1.0, 10.0)],
)
def test_scores_are_read_as_log_odds_within_bounds(score: float, odds: float) -> None:
    assert log_odds(score) == pytest.approx(odds)


# --- what they compute ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_policy_computes_what_pytorch_computes(name: str) -> None:
    """PyTorch computes the transformer's outputs of a solution in one pass, so no step sees a later one."""
    golden = json.loads(GOLDEN.read_text())[name]
    computed = [[FITTED[name].decide(each).value for each in seen] for seen in SOLUTIONS]
    assert np.concatenate(computed) == pytest.approx(np.concatenate(golden), abs=1e-6)
    assert np.std(np.concatenate(golden)) > 0.1


def test_the_aggregate_network_has_the_parameters_of_the_released_code_and_those_of_one_more_input() -> None:
    assert sum(array.size for name, array in arrays("aggregate").items() if "inputs" not in name) == 13_571 + 64
    assert FITTED["aggregate"].name == "aggregate"


def test_the_sequence_network_has_two_layers_and_the_same_heads() -> None:
    layer = 6 * 64 * 64
    heads = 2 * (64 * 64 + 64 + 2 * 64) + (64 * 2 + 2) + (64 + 1)
    trained = sum(array.size for name, array in arrays("sequence").items() if "inputs" not in name)
    assert trained == (3 * 64 + 64) + 2 * layer + heads


@quick
@given(name=names, observation=observations)
def test_a_learned_policy_is_total_and_deterministic(name: str, observation: Observation) -> None:
    first, second = (FITTED[name].decide(observation) for _ in range(2))
    assert first == second
    assert first.value is not None
    assert 0 <= first.value <= 1


def test_a_policy_without_an_artefact_does_not_decide() -> None:
    with pytest.raises(AssertionError, match="fitted"):
        AggregatePolicy().decide(SOLUTIONS[0][0])


# --- the cut ----------------------------------------------------------------------------------------------------------


SHARES = {name: [fitted(name, escalate_share=share) for share in (0.01, 0.2, 0.5, 0.8, 0.99)] for name in POLICIES}


@quick
@given(name=names, observation=observations)
def test_a_greater_share_escalates_whatever_a_smaller_one_does(name: str, observation: Observation) -> None:
    escalates = [policy.decide(observation).action is Action.ESCALATE for policy in SHARES[name]]
    assert escalates == sorted(escalates)


def test_a_share_of_the_validation_steps_is_above_the_cut() -> None:
    seen = [each for length in range(1, 31) for each in solution(length)]
    found = np.array([FITTED["aggregate"].decide(each).value for each in seen], dtype=np.float64)
    made = artefact("aggregate", quantiles=np.quantile(found, np.linspace(0, 1, 1001)))
    for share in (0.02, 0.2, 0.5, 0.9):
        policy = AggregatePolicy(escalate_share=share).fitted(made)
        escalated = [policy.decide(each).action is Action.ESCALATE for each in seen]
        assert np.mean(escalated) == pytest.approx(share, abs=2 / len(seen))


def test_without_a_share_the_likelier_action_is_taken() -> None:
    decisions = [FITTED["aggregate"].decide(each) for seen in SOLUTIONS for each in seen]
    for each in decisions:
        assert each.value is not None
        assert each.compared_with == 0.5
        assert (each.action is Action.ESCALATE) == (each.value > 0.5) == (each.reason == "probability_above_cut")
        assert (each.action is Action.ACCEPT) == (each.reason == "probability_at_most_cut")
    assert {each.action for each in decisions} == set(Action)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan"), "half"])
def test_a_share_lies_between_0_and_1(share: object) -> None:
    with pytest.raises(ValidationError, match="escalate_share"):
        AggregatePolicy.model_validate({"escalate_share": share})


# --- artefacts --------------------------------------------------------------------------------------------------------


def test_a_fitted_policy_keeps_its_parameters_and_its_version_covers_the_artefact() -> None:
    bare = AggregatePolicy(escalate_share=0.2)
    assert bare.version == AggregatePolicy(escalate_share=0.2).version
    one, same = (bare.fitted(artefact("aggregate")) for _ in range(2))
    other = bare.fitted(artefact("aggregate", quantiles=np.linspace(0, 0.5, 1001)))
    assert one.escalate_share == 0.2
    assert one.version == same.version
    assert len({bare.version, one.version, other.version, FITTED["aggregate"].version}) == 4


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_each_array_of_the_actor_is_needed(name: str) -> None:
    needed = [array for array in SHAPES[name] if not array.startswith("critic")]
    for array in needed:
        lacking = {key: value for key, value in artefact(name).arrays.items() if key != array}
        with pytest.raises(BadArtefact, match=f"no array '{array}'"):
            POLICIES[name]().fitted(Artefact.make(lacking, policy=name, **CARD))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (artefact("sequence"), "'sequence', not for 'aggregate'"),
        (artefact("aggregate", **{"first.linear.weight": np.zeros((64, 5))}), "'first.linear.weight' .* 64x6"),
        (artefact("aggregate", **{"actor.out.bias": np.array([0.0, np.inf])}), "'actor.out.bias' .* 2 finite"),
        (
            artefact("aggregate", **{"inputs.scale": np.array([1.0, 1, 1, 1, 1, 0])}),
            "'inputs.scale' .* at least 0.0001",
        ),
        (artefact("aggregate", **{"inputs.scale": np.array([1.0, 1, 1, 1, 1, 1e-300])}), "'inputs.scale' .* at least"),
        (artefact("aggregate", **{"inputs.mean": np.full(6, 1e308)}), "'inputs.mean' .* at most 1000"),
        (artefact("aggregate", **{"actor.out.weight": np.full((2, 64), -1e308)}), "'actor.out.weight' .* at most 1000"),
        (artefact("aggregate", quantiles=np.linspace(0, 1, 11)), "'quantiles' .* 1001"),
        (artefact("aggregate", quantiles=np.linspace(1, 0, 1001)), "ascending order"),
        (artefact("aggregate", quantiles=np.r_[0.0, np.tile([1e308, -1e308], 499), 0.5, 1.0]), "ascending order"),
        (artefact("aggregate", quantiles=np.linspace(-0.1, 1, 1001)), "probabilities"),
        (artefact("aggregate", quantiles=np.linspace(0, 1.1, 1001)), "probabilities"),
    ],
)
def test_an_artefact_that_does_not_fit_is_refused_in_one_sentence(made: Artefact, said: str) -> None:
    with pytest.raises(BadArtefact, match=said) as caught:
        AggregatePolicy(escalate_share=0.2).fitted(made)
    assert str(caught.value).endswith(".")
    assert str(caught.value).count(". ") == 0


@pytest.mark.parametrize("name", sorted(POLICIES))
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_largest_weights_give_a_finite_probability_without_a_warning(name: str, sign: float) -> None:
    largest = {array: np.full(shape, sign * MAX_WEIGHT) for array, shape in SHAPES[name].items()}
    scale = {"inputs.scale": np.full_like(largest["inputs.scale"], LEAST_SCALE)}
    policy = POLICIES[name]().fitted(artefact(name, **largest | scale))
    seen = replace(solution(12)[-1], draft_tokens=100_000)
    assert policy.decide(seen).is_finite


# --- the record -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_decision_is_repeated_from_its_stored_row(name: str) -> None:
    taken = set[Action]()
    for policy in SHARES[name]:
        for record in decided_by(policy).decisions:
            row = decision_values(PROBLEM_ID, record)
            again = policy.decide(TypeAdapter(Observation).validate_json(row["observation"]))
            assert (again.action, again.reason, again.value, again.compared_with) == (
                row["action"], row["reason"], row["value"], row["compared_with"],
            )  # fmt: skip
            assert policy.version.parameters_digest == row["policy_digest"]
            taken.add(again.action)
    assert taken == set(Action)


def decided_by(policy: LearnedPolicy) -> State:
    """Have a policy decide five drafts."""
    state = running()
    for score in (0.9, 0.2, 0.7, 0.1, 0.95):
        command = command_of(state)
        (draft,) = drafts_of(command, f"{score} so far", tokens=int(score * 100))
        event = scored(draft, scores=(score,), prefix_scores=(0.8,) * command.unscored_steps, epoch=state.epoch)
        state = apply(state, event, policy=policy, now=START)
        if state.is_escalating:
            state = answer(state, f"written by the large model in place of {score}")
    assert len(state.decisions) == 5
    return state
