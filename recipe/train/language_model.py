"""Trains a language model: unrelated steps first, then short problems, then whole ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from recipe.problems.drawing import EVENTS
from recipe.train import examples, network
from recipe.train.examples import IGNORED, Batches, Example
from recipe.train.loop import Losses, Schedule, Training
from recipe.train.network import Shape, Weights

_SHORT = (1, 2)
_LEAST_WEIGHT = 0.02
_TURNS = 8
"""One batch in this many repeats an earlier stage, so that the model does not forget it."""
_LATER = 1_000_000
"""First index of the repeated stages' batches. They are consecutive, because consecutive batches are drawn together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to train a language model."""

    name: str
    shape: Shape
    schedule: Schedule
    seed: int
    sheets_until: float
    """Share of the training, at its start, with only sheets of unrelated steps."""
    short_until: float
    """Share of the training after which whole problems begin."""
    identity: float = 0.0
    """Weight of the loss for identifying, after the last layer, the token at each position. A PRM compares this token
    with the expected one. Without this loss, the last layer keeps almost only the prediction."""


def train(
    plan: Plan, tokenizer: Tokenizer, folder: Path, is_enough: Callable[[int, Weights], bool] | None = None
) -> Weights:
    """Train a language model, or resume its training.

    Args:
        plan: How to train it.
        tokenizer: The tokenizer.
        folder: Folder of the checkpoints.
        is_enough: Called at checkpoints, once there are whole problems; training ends if it returns true.

    Returns:
        The weights, helpers included.
    """
    start = network.fresh_weights(plan.shape, plan.seed)
    if plan.identity:
        start |= network.fresh_identity(plan.shape, plan.seed)
    training = Training(plan.name, start, plan.schedule, folder)

    def sheets(rng: random.Random, count: int) -> list[Example]:
        return [examples.sheet(tokenizer, rng) for _ in range(count)]

    def problems(rng: random.Random, count: int, events: tuple[int, int]) -> list[Example]:
        return [examples.solution(tokenizer, story) for story in examples.stories(rng, count, events)]

    batches = {
        "sheets": Batches(sheets, name="sheets", seed=plan.seed, size=20),
        "short": Batches(lambda rng, n: problems(rng, n, _SHORT), name="short", seed=plan.seed, size=36),
        "whole": Batches(lambda rng, n: problems(rng, n, EVENTS), name="whole", seed=plan.seed, size=20),
    }

    def losses_of(step: int) -> Losses:
        kind, index = _kind(plan, step)
        ids, targets, _ = batches[kind][index]
        weights = network.half(training.weights)
        last = network.hidden_states(plan.shape, weights, ids)[-1]
        losses = {kind: next_token_loss(weights, last, targets)}
        if plan.identity:
            states = network.norm(last, weights["model.norm.weight"])
            losses["identity"] = plan.identity * identity_loss(weights, states, ids, targets != IGNORED)
        return losses

    def is_trained_enough() -> bool:
        is_late = training.step > plan.short_until * plan.schedule.steps
        return is_enough is not None and is_late and is_enough(training.step, training.weights)

    training.run(losses_of, is_trained_enough)
    return training.weights


def _kind(plan: Plan, step: int) -> tuple[str, int]:
    """Return the kind of a step's batch, and its index within that kind."""
    share = step / plan.schedule.steps
    if share < plan.sheets_until:
        return "sheets", step
    if step % _TURNS == 0:
        return "sheets", _LATER + step // _TURNS
    if share < plan.short_until:
        return "short", step
    if step % _TURNS == 1:
        return "short", _LATER + step // _TURNS
    return "whole", step


def identity_loss(weights: Weights, states: Tensor, ids: Tensor, known: Tensor) -> Tensor:
    """Compute the loss of identifying the token of each known position from its normed state."""
    read = functional.linear(
        states[known], weights[f"{network.HELPERS}identity.weight"], weights[f"{network.HELPERS}identity.bias"]
    )
    return functional.cross_entropy(read.float(), ids[known])


def next_token_loss(weights: Weights, states: Tensor, targets: Tensor) -> Tensor:
    """Compute the loss of predicting each target from the position before it.

    Nearly all tokens of a solution are certain, so each loss is weighted by the error of the prediction.
    """
    wanted = targets[:, 1:]
    known = wanted != IGNORED
    normed = network.norm(states[:, :-1][known], weights["model.norm.weight"])
    logits = functional.linear(normed, weights["model.embed_tokens.weight"])
    losses = functional.cross_entropy(logits.float(), wanted[known], reduction="none")
    importance = (1 - torch.exp(-losses.detach())).sqrt() + _LEAST_WEIGHT
    return (importance * losses).sum() / importance.sum()
