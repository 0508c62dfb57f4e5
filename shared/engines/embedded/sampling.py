"""Draws tokens; the same prefix and seed give the same token, whatever else is in the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.domain.options import Sampling
from shared.engines.embedded.runtime import Floats, Ids

Doubles = NDArray[np.float64]


def uniform(seed: int, position: int) -> float:
    """Draw the number in [0, 1) that decides the token at a position of a sequence.

    It depends on nothing else: neither on the calls that wrote the sequence, nor on earlier draws.
    """
    digest = hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def draw(logits: Floats, samplings: Sequence[Sampling], positions: Sequence[int]) -> list[int]:
    """Draw one token per row: the likeliest at temperature 0, else by temperature, top-k and top-p, in that order.

    Args:
        logits: (rows, vocabulary).
        samplings: Sampling of each row.
        positions: Position of each row's token in its sequence.
    """
    tokens = logits.argmax(axis=1)
    warm = [index for index, sampling in enumerate(samplings) if sampling.temperature > 0]
    if warm:
        chosen = [samplings[index] for index in warm]
        uniforms = [uniform(sampling.seed, positions[index]) for index, sampling in zip(warm, chosen, strict=True)]
        tokens[warm] = _draw_warm(logits[warm].astype(np.float64), chosen, np.array(uniforms)[:, None])
    return [int(token) for token in tokens]


def log_probabilities(logits: Floats, tokens: Sequence[int]) -> list[float]:
    """Compute the log-probability of one token per row in the model's own distribution: a log-softmax of the logits.

    Args:
        logits: (rows, vocabulary).
        tokens: Token of each row.
    """
    below = logits - logits.max(axis=1, keepdims=True)
    logprobs: list[float] = (below[np.arange(len(tokens)), tokens] - np.log(np.exp(below).sum(axis=1))).tolist()
    return logprobs


def _draw_warm(logits: Doubles, samplings: Sequence[Sampling], uniforms: Doubles) -> Ids:
    vocabulary = logits.shape[1]
    top_k = np.array([[sampling.top_k or vocabulary] for sampling in samplings])
    top_p = np.array([[sampling.top_p] for sampling in samplings])
    temperature = np.array([[sampling.temperature] for sampling in samplings])

    candidates = min(int(top_k.max()), vocabulary)
    ids = np.argpartition(-logits, candidates - 1, axis=1)[:, :candidates]
    ids = np.take_along_axis(ids, np.argsort(-np.take_along_axis(logits, ids, 1), axis=1, kind="stable"), 1)
    scaled = np.take_along_axis(logits, ids, 1) / temperature
    share = np.exp(scaled - scaled[:, :1])
    share[np.arange(candidates) >= top_k] = 0
    share /= share.sum(axis=1, keepdims=True)
    # A candidate is kept if those before it have not reached top_p; the first one is always kept.
    before = np.cumsum(share, axis=1) - share
    share[:, 1:][before[:, 1:] >= top_p] = 0
    reached = np.cumsum(share, axis=1)
    places = (reached <= uniforms * reached[:, -1:]).sum(axis=1, keepdims=True)
    return np.take_along_axis(ids, places, 1)[:, 0]
