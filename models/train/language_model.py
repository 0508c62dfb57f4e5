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

from models.problems.drawing import EVENTS
from models.train import examples, network
from models.train.examples import IGNORED, Batches, Example
from models.train.loop import Losses, Schedule, Training
from models.train.network import Shape, Weights

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


def train(
    plan: Plan, tokenizer: Tokenizer, folder: Path, is_enough: Callable[[Weights], bool] | None = None
) -> Weights:
    """Train a language model, or take its training up again.

    Args:
        plan: How.
        tokenizer: The tokenizer.
        folder: Where checkpoints are kept.
        is_enough: Is asked now and then, once there are whole problems; training ends where it says so.
    """
    training = Training(plan.name, network.fresh_weights(plan.shape, plan.seed), plan.schedule, folder)

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
        share = step / plan.schedule.steps
        if share < plan.sheets_until:
            kind, index = "sheets", step
        elif step % _TURNS == 0:
            kind, index = "sheets", _LATER + step // _TURNS
        elif share < plan.short_until:
            kind, index = "short", step
        elif step % _TURNS == 1:
            kind, index = "short", _LATER + step // _TURNS
        else:
            kind, index = "whole", step
        ids, targets, _ = batches[kind][index]
        weights = network.half(training.weights)
        last = network.hidden_states(plan.shape, weights, ids)[-1]
        return {kind: next_token_loss(weights, last, targets)}

    def is_trained_enough() -> bool:
        is_late = training.step > plan.short_until * plan.schedule.steps
        return is_enough is not None and is_late and is_enough(training.weights)

    training.run(losses_of, is_trained_enough)
    return training.weights


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
