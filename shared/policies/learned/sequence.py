"""TRIM-Seq: a causal transformer over the scores and tokens of the steps (TRIM paper, section 4).

The paper gives no sizes; docs/decisions/0019 has the choices and their reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import ClassVar, Self

import numpy as np

from shared.domain.decisions import Observation
from shared.policies.artefact import Artefact
from shared.policies.learned.aggregate import TOKENS_UNIT
from shared.policies.learned.layers import EPSILON, WIDTH, Actor, Array, Linear
from shared.policies.learned.policy import LearnedPolicy

LAYERS = 2
HEADS = 4
WIDE = 128
"""Width of the feed-forward layers."""

WINDOW = 30
"""Number of steps that the network sees, the draft included. If there are more, it sees the latest."""

_SIZE = WIDTH // HEADS


def tokens(observation: Observation) -> list[tuple[float, float]]:
    """List score and scaled number of tokens of each step in the window, the draft's last.

    An earlier step without a score counts as 1, which changes neither the least score nor the product. A draft without
    a score counts as 0; the service decides it by rule. Unknown numbers of tokens count as 0.
    """
    earlier = zip_longest(observation.previous_scores, observation.previous_tokens)
    steps = [(1.0 if score is None else score, (count or 0) / TOKENS_UNIT) for score, count in earlier]
    steps.append((observation.score or 0.0, (observation.draft_tokens or 0) / TOKENS_UNIT))
    return steps[-WINDOW:]


def positions() -> Array:
    """Compute the sinusoidal encoding of the positions in the window (Vaswani et al. 2017, section 3.5).

    Returns:
        (WINDOW, WIDTH): sines in the first half of the columns, cosines in the second.
    """
    angles = np.outer(np.arange(WINDOW), 1e4 ** (-np.arange(WIDTH // 2) / (WIDTH // 2)))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1, dtype=np.float32)


_POSITIONS = positions()

_UNSEEN = np.triu(np.full((WINDOW, WINDOW), -1e9, dtype=np.float32), 1)
"""Added to the attention of a step (row) to a later one (column)."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of the transformer: attention and a feed-forward layer, each after a norm and added to its input."""

    query: Linear
    key: Linear
    value: Linear
    mix: Linear
    widen: Linear
    narrow: Linear

    @classmethod
    def read(cls, artefact: Artefact, name: str) -> Self:
        """Read the layer.

        Raises:
            BadArtefact: An array is missing or has another shape.
        """

        def linear(part: str, inputs: int, outputs: int) -> Linear:
            return Linear.read(artefact, f"{name}.{part}", inputs, outputs)

        query, key, value, mix = (linear(part, WIDTH, WIDTH) for part in ("query", "key", "value", "mix"))
        return cls(query, key, value, mix, linear("widen", WIDTH, WIDE), linear("narrow", WIDE, WIDTH))

    def __call__(self, x: Array, newest: int) -> Array:
        """Compute the newest rows of the output.

        Args:
            x: (T, WIDTH), one row a step.
            newest: Number of rows to compute, counted from the end.

        Returns:
            (newest, WIDTH).
        """
        count, normed = len(x), norm(x)
        queries, keys, values = self.query(normed[-newest:]), self.key(normed), self.value(normed)
        attention = _by_head(queries) @ _by_head(keys).swapaxes(1, 2) * _SIZE**-0.5
        attention += _UNSEEN[count - newest : count, :count]
        attention -= attention.max(-1, keepdims=True)
        np.exp(attention, out=attention)
        mixed = attention @ _by_head(values) / attention.sum(-1, keepdims=True)
        x = x[-newest:] + self.mix(mixed.swapaxes(0, 1).reshape(newest, WIDTH))
        return x + self.narrow(np.maximum(self.widen(norm(x)), 0))


def norm(x: Array) -> Array:
    """Apply RMSNorm without weights to the rows: the linear layers after it scale as well."""
    normed: Array = x / np.sqrt(np.vecdot(x, x) / WIDTH + EPSILON)[:, None]
    return normed


def _by_head(x: Array) -> Array:
    """Split rows, (T, WIDTH), into heads, (HEADS, T, size)."""
    return x.reshape(len(x), HEADS, _SIZE).swapaxes(0, 1)


@dataclass(frozen=True, slots=True)
class SequenceNetwork:
    """The transformer and the actor. The critic, which has a head like the actor's, is needed only for training."""

    embed: Linear
    layers: tuple[Layer, ...]
    actor: Actor

    @classmethod
    def read(cls, artefact: Artefact) -> Self:
        """Read the network.

        Raises:
            BadArtefact: An array is missing or has another shape.
        """
        return cls(
            Linear.read(artefact, "embed", 2, WIDTH),
            tuple(Layer.read(artefact, f"layers.{index}") for index in range(LAYERS)),
            Actor.read(artefact),
        )

    def __call__(self, observation: Observation) -> float:
        """Return the probability of escalation."""
        steps = np.array(tokens(observation), dtype=np.float32)
        x = self.embed(steps) + _POSITIONS[: len(steps)]
        for layer in self.layers[:-1]:
            x = layer(x, len(x))
        return self.actor(self.layers[-1](x, 1)[0])  # Only the draft is decided on.


class SequencePolicy(LearnedPolicy):
    """Escalate where a causal transformer expects that it pays (TRIM-Seq, section 4 of the TRIM paper).

    The network sees PRM score and tokens of each step and of the draft.
    """

    name: ClassVar[str] = "sequence"

    def _read(self, artefact: Artefact) -> SequenceNetwork:
        return SequenceNetwork.read(artefact)
