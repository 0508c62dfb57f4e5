"""Artefacts of learned policies with weights that any machine draws alike, and observations for them.

`golden/learned.json` holds what PyTorch computes from these weights, so that machines without it check the policies
too. `python -m tests.unit.policies.learned` writes it again, where torch is installed.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from shared.domain.artefacts import ModelIds
from shared.domain.decisions import Observation
from shared.policies.artefact import Artefact, Floats
from shared.policies.learned.aggregate import AggregatePolicy
from shared.policies.learned.policy import LearnedPolicy
from shared.policies.learned.sequence import SequencePolicy

GOLDEN = Path(__file__).parent / "golden" / "learned.json"

CARD: dict[str, Any] = {
    "models": ModelIds(small="small-model", large="large-model", prm="prm"),
    "data": {}, "settings": {}, "metrics": {}, "created_at": datetime(2026, 1, 2, tzinfo=UTC), "command": "test",
}  # fmt: skip


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _hidden(name: str, inputs: int) -> dict[str, tuple[int, ...]]:
    return _linear(f"{name}.linear", inputs, 64) | {f"{name}.norm.weight": (64,), f"{name}.norm.bias": (64,)}


_HEADS = (
    _hidden("actor.hidden", 64)
    | _linear("actor.out", 64, 2)
    | _hidden("critic.hidden", 64)
    | _linear("critic.out", 64, 1)
)
_LAYER = {
    "query": (64, 64), "key": (64, 64), "value": (64, 64), "mix": (64, 64), "widen": (64, 64), "narrow": (64, 64)
}  # fmt: skip


def _scaling(inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"inputs.{part}": (inputs,) for part in ("mean", "scale")}


SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "aggregate": _hidden("first", 6) | _hidden("second", 64) | _HEADS | _scaling(6),
    "sequence": _linear("embed", 3, 64)
    | {f"layers.{layer}.{part}.weight": shape for layer in range(2) for part, shape in _LAYER.items()}
    | _HEADS
    | _scaling(3),
}
"""Arrays of each policy."""

POLICIES: dict[str, type[LearnedPolicy]] = {"aggregate": AggregatePolicy, "sequence": SequencePolicy}


def arrays(policy: str) -> dict[str, Floats]:
    """Draw weights with which probabilities differ widely; `RandomState` never changes its numbers."""
    numbers = np.random.RandomState(1)
    scales = {"embed.weight": 2.0, "first.linear.weight": 1.0, "actor.out.weight": 0.5, "actor.out.bias": 0.0}
    drawn = {
        name: numbers.standard_normal(shape) * scales.get(name, 0.125) + name.endswith("norm.weight")
        for name, shape in SHAPES[policy].items()
    }
    return drawn | {"inputs.scale": np.exp(drawn["inputs.scale"])}


def artefact(policy: str, **changes: Floats) -> Artefact:
    quantiles = np.linspace(0, 1, 1001) ** 2
    return Artefact.make(arrays(policy) | {"quantiles": quantiles} | changes, policy=policy, **CARD)


def fitted(policy: str, **parameters: float) -> LearnedPolicy:
    return POLICIES[policy](**parameters).fitted(artefact(policy))


def solution(length: int) -> list[Observation]:
    """Return what a policy sees at the steps of a solution, if it accepts all drafts."""
    numbers = np.random.RandomState(length)
    scores, tokens = numbers.random_sample(length).tolist(), numbers.randint(1, 400, length).tolist()
    return [
        Observation(
            step=step,
            score=scores[step],
            previous_scores=tuple(scores[:step]),
            previous_tokens=tuple(tokens[:step]),
            draft_tokens=tokens[step],
            mean_logprob=scores[step] - 1,
        )
        for step in range(length)
    ]


SOLUTIONS = [solution(length) for length in (1, 2, 12, 30)]


def computed_by_torch() -> dict[str, list[list[float]]]:
    """Compute the probabilities of escalation at each step of the solutions."""
    from training.networks import NETWORKS, from_artefact

    computed = {}
    for name, network in NETWORKS.items():
        weights = from_artefact(network, artefact(name))
        logits = [network(weights, network.encode(each))[0] for each in SOLUTIONS]
        computed[name] = [each.softmax(-1)[:, 1].tolist() for each in logits]
    return computed


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(computed_by_torch(), indent=1) + "\n")
