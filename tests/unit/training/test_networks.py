"""The networks in PyTorch; what the policies compute without it is in `tests/unit/policies/test_learned.py`."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the extra `train`")

from shared.policies.artefact import BadArtefact  # noqa: E402 - only where torch is
from tests.unit.policies.learned import (  # noqa: E402
    GOLDEN,
    POLICIES,
    SHAPES,
    SOLUTIONS,
    artefact,
    computed_by_torch,
    fitted,
    solution,
)
from training.networks import MEAN, NETWORKS, SCALE, SequenceNetwork, from_artefact, to_arrays  # noqa: E402


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_new_network_has_the_arrays_that_its_policy_reads(name: str) -> None:
    assert {key: tuple(weight.shape) for key, weight in NETWORKS[name].fresh(0).items()} == SHAPES[name]


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_new_network_is_orthogonal_and_prefers_no_action(name: str) -> None:
    network = NETWORKS[name]
    weights = network.fresh(3)
    square = weights["critic.hidden.linear.weight"]
    assert torch.allclose(square @ square.T, 2 * torch.eye(64), atol=1e-5)
    assert all(torch.equal(weight, network.fresh(3)[key]) for key, weight in weights.items())
    assert not torch.equal(square, network.fresh(4)["critic.hidden.linear.weight"])
    logits, values = network(weights, network.encode(SOLUTIONS[2]))
    assert logits.softmax(-1) == pytest.approx(np.full((12, 2), 0.5), abs=0.05)
    assert values.shape == (12,)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_policy_and_network_agree_on_observations_of_several_lengths_at_once(name: str) -> None:
    network, policy = NETWORKS[name], fitted(name)
    seen = [*SOLUTIONS[3][::3], *SOLUTIONS[2], *solution(40)[-3:]]
    logits, _ = network(from_artefact(network, artefact(name)), network.encode(seen))
    computed = np.array([policy.decide(each).value for each in seen], dtype=np.float64)
    assert np.abs(logits.softmax(-1)[:, 1].numpy() - computed).max() < 1e-6


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_inputs_are_scaled_to_mean_0_and_deviation_1(name: str) -> None:
    network = NETWORKS[name]
    weights = network.scaled(network.fresh(0), SOLUTIONS[3])
    rows = (network.rows(network.encode(SOLUTIONS[3])) - weights[MEAN]) / weights[SCALE]
    assert rows.mean(0).numpy() == pytest.approx(np.zeros(network.inputs), abs=1e-5)
    assert rows.std(0, correction=0).numpy() == pytest.approx(np.ones(network.inputs), abs=1e-5)
    same = network.scaled(network.fresh(0), SOLUTIONS[3][:1])[SCALE]
    assert (same > 0).all(), "of a single step nothing varies"


def test_padding_is_no_input() -> None:
    network = SequenceNetwork()
    assert len(network.rows(network.encode(SOLUTIONS[2]))) == sum(range(1, 13))


def test_the_golden_file_holds_what_pytorch_computes() -> None:
    golden = json.loads(GOLDEN.read_text())
    for name, passes in computed_by_torch().items():
        for computed, expected in zip(passes, golden[name], strict=True):
            assert computed == pytest.approx(expected, abs=1e-6)


def test_a_later_step_changes_no_earlier_output() -> None:
    network = SequenceNetwork()
    weights = from_artefact(network, artefact("sequence"))
    steps, _ = network.encode(SOLUTIONS[3][-1:])
    other = steps.clone()
    other[:, 20:] = 0.5
    one, changed = network.states(weights, steps), network.states(weights, other)
    assert torch.equal(one[:, :20], changed[:, :20])
    assert not torch.isclose(one[:, 20:], changed[:, 20:]).all(-1).any()


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_weights_pass_through_an_artefact_unchanged(name: str) -> None:
    network = NETWORKS[name]
    weights = network.fresh(5)
    read = from_artefact(network, artefact(name, **to_arrays(weights)))
    assert all(torch.equal(weight, read[key]) for key, weight in weights.items())
    assert network.policy is POLICIES[name]
    with pytest.raises(BadArtefact, match=r"critic\.out\.bias"):
        from_artefact(network, artefact(name, **{"critic.out.bias": np.zeros(2)}))
