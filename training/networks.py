"""The networks of the learned policies in PyTorch, as functions of their weights.

Weights have the names and shapes of the arrays in an artefact, so that `shared/policies/learned` computes the same from
them. All heads share the body, as in the paper's released code.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from shared.domain.decisions import Observation
from shared.policies.artefact import Artefact, Floats
from shared.policies.learned import aggregate, sequence
from shared.policies.learned.layers import EPSILON, WIDTH
from shared.policies.learned.policy import LearnedPolicy

Weights = dict[str, Tensor]

MEAN, SCALE = "inputs.mean", "inputs.scale"
"""Weights that bring inputs to mean 0 and deviation 1. They are measured, not trained."""

LEAST_DEVIATION = 1e-3
"""Deviation of an input that hardly varies."""

Inputs = tuple[Tensor, ...]
"""Encoded observations; the first dimension of each tensor is that of the observations."""

HEADS = {"actor": 2, "critic": 1}
"""Number of outputs of each head."""

GAIN = math.sqrt(2)
"""Gain of the orthogonal initial weights."""

ACTOR_GAIN = 0.01
"""Gain for the actor's last layer: at first all actions are about equally likely."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer of a network."""

    name: str
    inputs: int
    outputs: int
    has_bias: bool = True


class Network(ABC):
    """A body that turns observations into `WIDTH` numbers, and two heads: actor and critic."""

    policy: ClassVar[type[LearnedPolicy]]
    """The policy that decides with it."""
    inputs: ClassVar[int]
    """Number of inputs."""

    @abstractmethod
    def body_layers(self) -> Iterator[Linear]:
        """Yield the linear layers of the body."""

    @abstractmethod
    def encode(self, observations: Sequence[Observation]) -> Inputs:
        """Encode observations as the body takes them."""

    @abstractmethod
    def rows(self, inputs: Inputs) -> Tensor:
        """Return all inputs that `encode` has made, (rows, inputs)."""

    @abstractmethod
    def body(self, weights: Weights, inputs: Inputs) -> Tensor:
        """Compute the body's output for encoded observations, (N, WIDTH)."""

    def layers(self) -> Iterator[Linear]:
        """Yield all linear layers."""
        yield from self.body_layers()
        for head, outputs in HEADS.items():
            yield Linear(f"{head}.hidden.linear", WIDTH, WIDTH)
            yield Linear(f"{head}.out", WIDTH, outputs)

    def scaled(self, weights: Weights, observations: Sequence[Observation]) -> Weights:
        """Return the weights with the scaling that some observations need."""
        rows = self.rows(self.encode(observations))
        deviation = rows.std(0, correction=0).clamp(min=LEAST_DEVIATION)
        return weights | {MEAN: rows.mean(0), SCALE: deviation}

    def fresh(self, seed: int) -> Weights:
        """Draw the weights of a new network: orthogonal matrices, biases of 0, and inputs as they are."""
        generator = torch.Generator().manual_seed(seed)
        weights: Weights = {MEAN: torch.zeros(self.inputs), SCALE: torch.ones(self.inputs)}
        for layer in self.layers():
            name, gain = layer.name, ACTOR_GAIN if layer.name == "actor.out" else GAIN
            weight = torch.empty(layer.outputs, layer.inputs)
            weights[f"{name}.weight"] = torch.nn.init.orthogonal_(weight, gain, generator=generator)
            if layer.has_bias:
                weights[f"{name}.bias"] = torch.zeros(layer.outputs)
            if name.endswith(".linear"):  # LayerNorm and tanh follow.
                norm = name.removesuffix("linear") + "norm"
                weights |= {f"{norm}.weight": torch.ones(WIDTH), f"{norm}.bias": torch.zeros(WIDTH)}
        return weights

    def __call__(self, weights: Weights, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Compute the logits of accept and escalate, (N, 2), and the expected reward, (N,)."""
        return self.heads(weights, self.body(weights, inputs))

    def heads(self, weights: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both outputs from the body's."""
        actor, critic = (linear(weights, f"{head}.out", hidden(weights, f"{head}.hidden", x)) for head in HEADS)
        return actor, critic[..., 0]


class AggregateNetwork(Network):
    """The network of `AggregatePolicy`."""

    policy = aggregate.AggregatePolicy
    inputs = aggregate.FEATURES

    def body_layers(self) -> Iterator[Linear]:
        """Yield the linear layers of the body."""
        yield Linear("first.linear", aggregate.FEATURES, WIDTH)
        yield Linear("second.linear", WIDTH, WIDTH)

    def encode(self, observations: Sequence[Observation]) -> Inputs:
        """Return the features of observations, (N, FEATURES)."""
        return (torch.tensor([aggregate.features(each) for each in observations]),)

    def rows(self, inputs: Inputs) -> Tensor:
        """Return the features."""
        return inputs[0]

    def body(self, weights: Weights, inputs: Inputs) -> Tensor:
        """Apply two hidden layers."""
        (features,) = inputs
        return hidden(weights, "second", hidden(weights, "first", scale(weights, features)))


class SequenceNetwork(Network):
    """The network of `SequencePolicy`."""

    policy = sequence.SequencePolicy
    inputs = sequence.INPUTS

    def body_layers(self) -> Iterator[Linear]:
        """Yield the linear layers of the body."""
        yield Linear("embed", self.inputs, WIDTH)
        for layer in range(sequence.LAYERS):
            for part in ("query", "key", "value", "mix"):
                yield Linear(f"layers.{layer}.{part}", WIDTH, WIDTH, has_bias=False)
            yield Linear(f"layers.{layer}.widen", WIDTH, sequence.WIDE, has_bias=False)
            yield Linear(f"layers.{layer}.narrow", sequence.WIDE, WIDTH, has_bias=False)

    def encode(self, observations: Sequence[Observation]) -> Inputs:
        """Return score, tokens and surprise of each step, (N, T, 3), padded on the right; index of each draft, (N,)."""
        steps = [torch.tensor(sequence.inputs(each)).T for each in observations]
        last = torch.tensor([len(each) - 1 for each in steps])
        return torch.nn.utils.rnn.pad_sequence(steps, batch_first=True), last

    def rows(self, inputs: Inputs) -> Tensor:
        """Return the steps, without what pads them."""
        steps, last = inputs
        return steps[torch.arange(steps.shape[1]) <= last[:, None]]

    def body(self, weights: Weights, inputs: Inputs) -> Tensor:
        """Apply the transformer, and take its output at each last step."""
        steps, last = inputs
        return self.states(weights, steps)[torch.arange(len(steps)), last]

    def states(self, weights: Weights, steps: Tensor) -> Tensor:
        """Apply the transformer.

        Args:
            weights: The weights.
            steps: (N, T, 3).

        Returns:
            (N, T, WIDTH); the output at a step depends on no later one.
        """
        count = steps.shape[1]
        x = linear(weights, "embed", scale(weights, steps)) + torch.from_numpy(sequence.positions()[:count])
        unseen = torch.full((count, count), -math.inf).triu(1)
        for layer in range(sequence.LAYERS):
            at, normed = f"layers.{layer}", functional.rms_norm(x, (WIDTH,), eps=EPSILON)
            query, key, value = (
                linear(weights, f"{at}.{part}", normed).unflatten(-1, (sequence.HEADS, -1)).transpose(1, 2)
                for part in ("query", "key", "value")
            )
            attention = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + unseen
            mixed = (attention.softmax(-1) @ value).transpose(1, 2).flatten(-2)
            x = x + linear(weights, f"{at}.mix", mixed)
            wide = linear(weights, f"{at}.widen", functional.rms_norm(x, (WIDTH,), eps=EPSILON)).relu()
            x = x + linear(weights, f"{at}.narrow", wide)
        return x


NETWORKS: Mapping[str, Network] = {each.policy.name: each for each in (AggregateNetwork(), SequenceNetwork())}
"""By the name of the policy."""


def scale(weights: Weights, inputs: Tensor) -> Tensor:
    """Scale inputs, (..., inputs)."""
    return (inputs - weights[MEAN]) / weights[SCALE]


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Apply a linear layer, with biases if it has them."""
    return functional.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def hidden(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Apply a hidden layer: linear, LayerNorm, tanh."""
    x = linear(weights, f"{name}.linear", x)
    norm = weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"]
    return functional.layer_norm(x, (WIDTH,), *norm, EPSILON).tanh()


def trainable(weights: Weights) -> list[Tensor]:
    """Return the weights that are trained."""
    return [weight for name, weight in weights.items() if name not in {MEAN, SCALE}]


def check_like(found: Weights, wanted: Weights) -> None:
    """Check that weights are finite, and have the names, shapes and types of others.

    Raises:
        ValueError: They are not, or have not.
    """
    if found.keys() != wanted.keys():
        raise ValueError("the weights have other names")
    for name, weight in wanted.items():
        each = found[name]
        if each.shape != weight.shape or each.dtype != weight.dtype or not each.isfinite().all():
            raise ValueError(f"the weights {name!r} should be finite numbers of shape {tuple(weight.shape)}")


def to_arrays(weights: Weights) -> dict[str, Floats]:
    """Turn weights into the arrays of an artefact."""
    return {name: weight.detach().numpy().astype(np.float64) for name, weight in weights.items()}


def from_artefact(network: Network, artefact: Artefact) -> Weights:
    """Read a network's weights, the critic's included.

    Raises:
        BadArtefact: An array is missing or has another shape.
    """
    shapes = {name: weight.shape for name, weight in network.fresh(0).items()}
    return {name: torch.tensor(artefact.array(name, *shape), dtype=torch.float32) for name, shape in shapes.items()}
