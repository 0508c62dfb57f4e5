"""Layers of the networks, read from the arrays of an artefact.

They compute in single precision, as training does: on matrices it takes half the time of double precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared.policies.artefact import Artefact, BadArtefact

Array = NDArray[np.float32]

WIDTH = 64
"""Width of all hidden layers."""

EPSILON = 1e-5
"""Number that norms add to a variance."""

MAX_WEIGHT = 1e3
"""Largest absolute value of a weight. Trained ones are about 1; far larger ones would overflow single precision."""

LEAST_SCALE = 1e-4
"""Least deviation of an input; it divides the input. Training measures 0.001 or more."""

MAX_LOG_ODDS = 10.0
"""Log-odds beyond which scores are not told apart: those of 0.99995."""


def log_odds(score: float) -> float:
    """Return the log-odds of a score, which a network reads in its place.

    A PRM is sure of most steps: in the scores themselves, right steps and missed errors would differ by a hundredth.
    """
    if score in {0.0, 1.0}:
        return MAX_LOG_ODDS if score else -MAX_LOG_ODDS
    return min(max(math.log(score / (1 - score)), -MAX_LOG_ODDS), MAX_LOG_ODDS)


SURPRISE_RANGE = (1e-5, 1e5)
"""Surprises beyond which drafts are not told apart."""


def surprise(mean_logprob: float | None) -> float:
    """Return the logarithm of how little the small model expected a draft: of minus its mean log-probability.

    Without log-probabilities every draft counts as expected, so that training with an engine that reports none learns
    to ignore this input.
    """
    low, high = SURPRISE_RANGE
    return math.log(min(max(-(mean_logprob or 0.0), low), high))


def weights(artefact: Artefact, name: str, *shape: int) -> Array:
    """Read weights in single precision.

    Raises:
        BadArtefact: The array is missing, has another shape, or holds numbers that are too large.
    """
    found = artefact.array(name, *shape)
    if (np.abs(found) > MAX_WEIGHT).any():
        owner = artefact.card.policy
        raise BadArtefact(
            f"The array {name!r} of the artefact of {owner!r} should hold numbers of at most {MAX_WEIGHT:g}; train it"
            " again."
        )
    return found.astype(np.float32)


def matrix(artefact: Artefact, name: str, inputs: int, outputs: int) -> Array:
    """Read the weights of a linear layer, (inputs, outputs).

    Raises:
        BadArtefact: The array is missing or has another shape.
    """
    return np.ascontiguousarray(weights(artefact, f"{name}.weight", outputs, inputs).T)


@dataclass(frozen=True, slots=True)
class Scaling:
    """Brings the inputs of a network to mean 0 and deviation 1 on the steps of training."""

    mean: Array
    """(inputs,)."""
    scale: Array
    """(inputs,): standard deviations."""

    @classmethod
    def read(cls, artefact: Artefact, inputs: int) -> Self:
        """Read the scaling.

        Raises:
            BadArtefact: An array is missing or has another shape, or a deviation is too small.
        """
        mean, scale = (weights(artefact, f"inputs.{part}", inputs) for part in ("mean", "scale"))
        if (scale < LEAST_SCALE).any():
            name = artefact.card.policy
            raise BadArtefact(
                f"'inputs.scale' of the artefact of {name!r} should be at least {LEAST_SCALE:g}; train it again."
            )
        return cls(mean, scale)

    def __call__(self, inputs: Array) -> Array:
        """Scale inputs: a vector, or the rows of a matrix."""
        return (inputs - self.mean) / self.scale


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer with biases."""

    weight: Array
    """(inputs, outputs)."""
    bias: Array
    """(outputs,)."""

    @classmethod
    def read(cls, artefact: Artefact, name: str, inputs: int, outputs: int) -> Self:
        """Read a layer.

        Raises:
            BadArtefact: An array is missing or has another shape.
        """
        return cls(matrix(artefact, name, inputs, outputs), weights(artefact, f"{name}.bias", outputs))

    def __call__(self, x: Array) -> Array:
        """Apply the layer to a vector or to the rows of a matrix."""
        return x @ self.weight + self.bias


@dataclass(frozen=True, slots=True)
class Hidden:
    """A hidden layer: linear, LayerNorm, tanh."""

    linear: Linear
    gain: Array
    """(WIDTH,)."""
    shift: Array
    """(WIDTH,)."""

    @classmethod
    def read(cls, artefact: Artefact, name: str, inputs: int) -> Self:
        """Read a layer.

        Raises:
            BadArtefact: An array is missing or has another shape.
        """
        gain, shift = (weights(artefact, f"{name}.norm.{part}", WIDTH) for part in ("weight", "bias"))
        return cls(Linear.read(artefact, f"{name}.linear", inputs, WIDTH), gain, shift)

    def __call__(self, x: Array) -> Array:
        """Apply the layer to a vector."""
        x = self.linear(x)
        # Sums and dot products, because `mean` and `var` take several times as long on so few numbers.
        x = x - x.sum() / WIDTH
        x = x / math.sqrt(x @ x / WIDTH + EPSILON)
        activated: Array = np.tanh(x * self.gain + self.shift)
        return activated


@dataclass(frozen=True, slots=True)
class Actor:
    """The head that chooses: a hidden layer, then one number for accept and one for escalate."""

    hidden: Hidden
    out: Linear

    @classmethod
    def read(cls, artefact: Artefact) -> Self:
        """Read the head.

        Raises:
            BadArtefact: An array is missing or has another shape.
        """
        return cls(Hidden.read(artefact, "actor.hidden", WIDTH), Linear.read(artefact, "actor.out", WIDTH, 2))

    def __call__(self, x: Array) -> float:
        """Return the probability of escalation for a vector of `WIDTH` numbers."""
        accept, escalate = self.out(self.hidden(x)).tolist()
        # The softmax of two numbers; unlike `exp`, tanh cannot overflow.
        return 0.5 + 0.5 * math.tanh((escalate - accept) / 2)
