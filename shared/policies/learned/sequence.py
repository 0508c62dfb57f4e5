"""TRIM-Seq: a causal transformer over the scores and tokens of the steps (TRIM paper, section 4).

The paper gives no sizes; docs/decisions/0019 has the choices and their reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from shared.domain.decisions import Observation
from shared.policies.artefact import Artefact
from shared.policies.learned.aggregate import TOKENS_UNIT
from shared.policies.learned.layers import EPSILON, WIDTH, Actor, Array, Linear, Scaling, log_odds, matrix, surprise
from shared.policies.learned.policy import LearnedPolicy

LAYERS = 2
HEADS = 4
INPUTS = 3
WIDE = 64
"""Width of the feed-forward layers."""

WINDOW = 30
"""Number of steps that the network sees, the draft included. If there are more, it sees the latest."""

_SIZE = WIDTH // HEADS


def inputs(observation: Observation) -> tuple[list[float], list[float], list[float]]:
    """Return scores, as log-odds, numbers of tokens, and surprises of the steps in the window, the draft's last.

    Only the draft's surprise is known, and stands at each step. An earlier step without a score counts as 1, which
    changes neither the least score nor the product. A draft without a score counts as 0; the service decides it by
    rule. Unknown numbers of tokens count as 0.
    """
    earlier = observation.previous_scores[1 - WINDOW :]
    counts = observation.previous_tokens[1 - WINDOW :] or (0,) * len(earlier)
    scores = [1.0 if score is None else score for score in (*earlier, observation.score or 0.0)]
    tokens = [count / TOKENS_UNIT for count in (*counts, observation.draft_tokens or 0)]
    return [log_odds(score) for score in scores], tokens, [surprise(observation.mean_logprob)] * len(scores)


def positions() -> Array:
    """Compute the sinusoidal encoding of the positions in the window (Vaswani et al. 2017, section 3.5).

    It is scaled down to about the length of an embedded score, which it would drown otherwise.

    Returns:
        (WINDOW, WIDTH): sines in the first half of the columns, cosines in the second.
    """
    angles = np.outer(np.arange(WINDOW), 1e4 ** (-np.arange(WIDTH // 2) / (WIDTH // 2)))
    codes: Array = (np.concatenate([np.sin(angles), np.cos(angles)], axis=1) * WIDTH**-0.5).astype(np.float32)
    return codes


_POSITIONS = positions()

_UNSEEN = np.triu(np.full((WINDOW, WINDOW), -1e9, dtype=np.float32), 1)
"""Added to the attention of a step (row) to a later one (column)."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of the transformer: attention and a feed-forward layer, each after a norm and added to its input.

    It has no biases, and keys and values come from one product: numpy takes longer to call than to compute here.
    """

    query: Array
    """(WIDTH, WIDTH); includes the scale of the attention."""
    key_value: Array
    """(WIDTH, 2 * WIDTH)."""
    mix: Array
    """(WIDTH, WIDTH)."""
    widen: Array
    """(WIDTH, WIDE)."""
    narrow: Array
    """(WIDE, WIDTH)."""

    @classmethod
    def read(cls, artefact: Artefact, name: str) -> Self:
        """Read the layer.

        Raises:
            BadArtefact: An array is missing or has another shape.
        """
        query, key, value, mix = (
            matrix(artefact, f"{name}.{part}", WIDTH, WIDTH) for part in ("query", "key", "value", "mix")
        )
        widen = matrix(artefact, f"{name}.widen", WIDTH, WIDE)
        narrow = matrix(artefact, f"{name}.narrow", WIDE, WIDTH)
        return cls(query * _SIZE**-0.5, np.concatenate([key, value], axis=1), mix, widen, narrow)

    def __call__(self, x: Array, newest: int) -> Array:
        """Compute the newest rows of the output.

        Args:
            x: (T, WIDTH), one row a step.
            newest: Number of rows to compute, counted from the end.

        Returns:
            (newest, WIDTH).
        """
        count, normed = len(x), norm(x)
        # Split into heads: (HEADS, rows, size).
        queries = (normed[-newest:] @ self.query).reshape(newest, HEADS, _SIZE).swapaxes(0, 1)
        keys, values = (normed @ self.key_value).reshape(count, 2, HEADS, _SIZE).transpose(1, 2, 0, 3)
        attention = queries @ keys.swapaxes(1, 2)
        attention += _UNSEEN[count - newest : count, :count]
        attention -= attention.max(-1, keepdims=True)
        np.exp(attention, out=attention)
        mixed = attention @ values / attention.sum(-1, keepdims=True)
        x = x[-newest:] + mixed.swapaxes(0, 1).reshape(newest, WIDTH) @ self.mix
        deeper: Array = x + np.maximum(norm(x) @ self.widen, 0) @ self.narrow
        return deeper


def norm(x: Array) -> Array:
    """Apply RMSNorm without weights to the rows: the linear layers after it scale as well."""
    normed: Array = x / np.sqrt(np.vecdot(x, x) / WIDTH + EPSILON)[:, None]
    return normed


@dataclass(frozen=True, slots=True)
class SequenceNetwork:
    """The transformer and the actor. The critic, which has a head like the actor's, is needed only for training."""

    scaling: Scaling
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
            Scaling.read(artefact, INPUTS),
            Linear.read(artefact, "embed", INPUTS, WIDTH),
            tuple(Layer.read(artefact, f"layers.{index}") for index in range(LAYERS)),
            Actor.read(artefact),
        )

    def __call__(self, observation: Observation) -> float:
        """Return the probability of escalation."""
        steps = np.array(inputs(observation), dtype=np.float32).T
        x = self.embed(self.scaling(steps)) + _POSITIONS[: len(steps)]
        for layer in self.layers[:-1]:
            x = layer(x, len(x))
        return self.actor(self.layers[-1](x, 1)[0])  # Only the draft is decided on.


class SequencePolicy(LearnedPolicy):
    """Escalate where a causal transformer expects that it pays (TRIM-Seq, section 4 of the TRIM paper).

    The network sees PRM score and tokens of each step and of the draft; and, where the engine reports it, how likely
    the small model found the draft.
    """

    name: ClassVar[str] = "sequence"

    def _read(self, artefact: Artefact) -> SequenceNetwork:
        return SequenceNetwork.read(artefact)
