"""Layers of the networks, read from the arrays of an artefact.

They compute in single precision, as training does: on matrices it takes half the time of double precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared.policies.artefact import Artefact

Array = NDArray[np.float32]

WIDTH = 64
"""Width of all hidden layers."""

EPSILON = 1e-5
"""Number that norms add to a variance."""


def matrix(artefact: Artefact, name: str, inputs: int, outputs: int) -> Array:
    """Read the weights of a linear layer, (inputs, outputs).

    Raises:
        BadArtefact: The array is missing or has another shape.
    """
    return np.ascontiguousarray(artefact.array(f"{name}.weight", outputs, inputs).T, dtype=np.float32)


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
        bias = artefact.array(f"{name}.bias", outputs).astype(np.float32)
        return cls(matrix(artefact, name, inputs, outputs), bias)

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
        gain, shift = (artefact.array(f"{name}.norm.{part}", WIDTH).astype(np.float32) for part in ("weight", "bias"))
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
