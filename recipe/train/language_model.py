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
"""One batch in this many goes back to each earlier stage, so that it is not unlearned."""
_LATER = 1_000_000
"""Where the batches of those turns are counted from: consecutive ones are drawn together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a language model is trained."""

    name: str
    shape: Shape
    schedule: Schedule
    seed: int
    sheets_until: float
    """Share of the training that sees nothing but sheets of unrelated steps."""
    short_until: float
    """Share of it after which whole problems come in."""
    identity: float = 0.0
    """Weight of the loss of telling, after the last layer, which token stands there: a PRM compares that with what was
    expected. Without it the last layer hands on what comes next, and what was written is all but drowned."""


def train(
    plan: Plan, tokenizer: Tokenizer, folder: Path, is_enough: Callable[[int, Weights], bool] | None = None
) -> Weights:
    """Train a language model, or take its training up again.

    Args:
        plan: How.
        tokenizer: The tokenizer.
        folder: Where checkpoints are kept.
        is_enough: Is asked at checkpoints, once there are whole problems; training ends where it says so.

    Returns:
        The weights, helpers among them.
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
    """Choose a step's kind of batch, and its index among those of that kind."""
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
    """Compute the loss of telling the token of each known place from its normed state."""
    read = functional.linear(
        states[known], weights[f"{network.HELPERS}identity.weight"], weights[f"{network.HELPERS}identity.bias"]
    )
    return functional.cross_entropy(read.float(), ids[known])


def next_token_loss(weights: Weights, states: Tensor, targets: Tensor) -> Tensor:
    """Compute the loss of predicting each target from the place before it.

    Most tokens of a solution are certain: each counts by how far from it the prediction is.
    """
    wanted = targets[:, 1:]
    known = wanted != IGNORED
    normed = network.norm(states[:, :-1][known], weights["model.norm.weight"])
    logits = functional.linear(normed, weights["model.embed_tokens.weight"])
    losses = functional.cross_entropy(logits.float(), wanted[known], reduction="none")
    importance = (1 - torch.exp(-losses.detach())).sqrt() + _LEAST_WEIGHT
    return (importance * losses).sum() / importance.sum()
