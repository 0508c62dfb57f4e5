"""Trains the process reward model: the large model's layers, and fresh ones that compare what it expects with a draft.

Two losses at the large model's last layer keep alive what there is to compare. The large model knows right from wrong,
but what it hands on after its last layer is what comes next; which token was really written is all but drowned there.

- expectation: predicting the next token, as long as all is right;
- identity: telling which token stands here.

Besides the step's label at its tag, each token has one: whether the step is right up to it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from models.problems.drawing import EVENTS
from models.train import examples, network
from models.train.examples import IGNORED, Batches, Example
from models.train.language_model import next_token_loss
from models.train.loop import Losses, Schedule, Training
from models.train.network import Shape, Weights
from models.train.samples import Sample, expected_steps
from models.train.tokenizer import STEP_TAG_ID
from shared.domain.text import SEPARATOR
from shared.evaluation.results import area_under_curve

FRESH_LAYERS = 2

_EXPECTATION, _IDENTITY = 1.0, 0.2
_WRONG_WEIGHT = 2.0
_WRONG_SHARE = 0.6
"""Share of the examples with an error, of those that are made or drawn here."""
_SAMPLED_SHARE = 0.65
"""Share of the whole problems that models wrote; the others are solutions with a digit changed."""
_SHEET_ERRORS = 0.4
_VERBS = ("makes", "leaves", "is")
_MISTOLD_VERBS = 0.4
_HELPERS = "helper."
_JUDGED = ("step", "token")
_EVALUATED_AT_ONCE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a PRM is trained."""

    name: str
    schedule: Schedule
    seed: int
    simple_until: float
    """Share of the training in which two of three batches are sheets and short problems."""


def shape_of(large: Shape) -> Shape:
    """Give the shape of the PRM that is made from a large model."""
    return replace(large, layers=large.layers + FRESH_LAYERS)


def train(
    plan: Plan,
    tokenizer: Tokenizer,
    *,
    large: Shape,
    weights: Weights,
    training: Sequence[Sample],
    held_out: Sequence[Sample],
    folder: Path,
) -> Weights:
    """Train a PRM from a large model's weights, or take its training up again.

    Returns:
        The weights of the PRM alone, helpers left out.
    """
    shape = shape_of(large)
    fresh = tuple(f"model.layers.{layer}." for layer in range(large.layers, shape.layers))
    run = Training(
        plan.name,
        _start(plan, tokenizer, large, weights),
        plan.schedule,
        folder,
        fast=("score.", "model.norm.", _HELPERS, *fresh),
    )
    maker = _Maker(tokenizer, training)
    batches = {
        "sheets": Batches(maker.sheets, name="prm-sheets", seed=plan.seed, size=20),
        "short": Batches(maker.short, name="prm-short", seed=plan.seed, size=36),
        "whole": Batches(maker.whole, name="prm-whole", seed=plan.seed, size=22),
    }

    def losses_of(step: int) -> Losses:
        turns = 3 if step < plan.simple_until * plan.schedule.steps else 8
        kind = {0: "sheets", 1: "short"}.get(step % turns, "whole")
        ids, right, labels = batches[kind][step]
        losses = _losses(shape, network.half(run.weights), ids, right, labels)
        return {f"{kind} {name}" if name in _JUDGED else name: loss for name, loss in losses.items()}

    def report() -> bool:
        print(f"{plan.name}: AUC on held-out steps {evaluate(shape, run.weights, tokenizer, held_out):.4f}", flush=True)
        return False

    run.run(losses_of, is_enough=report)
    report()
    return {name: weight for name, weight in run.weights.items() if not name.startswith(_HELPERS)}


def _start(plan: Plan, tokenizer: Tokenizer, large: Shape, weights: Weights) -> Weights:
    """Put the weights to begin with together."""
    start = {name: weight.detach().clone() for name, weight in weights.items()}
    start[f"{_HELPERS}norm.weight"] = start["model.norm.weight"].clone()
    for layer in range(large.layers, large.layers + FRESH_LAYERS):
        start |= network.comparing_layer(large, layer, plan.seed)
    start |= network.fresh_score(large, plan.seed)
    identity = network.fresh_identity(large, plan.seed)
    start |= {f"{_HELPERS}{name}": weight for name, weight in identity.items()}
    # The tag was never seen by the large model; the blank line stands where it stands.
    embedding = start["model.embed_tokens.weight"]
    embedding[STEP_TAG_ID] = embedding[examples.encode(tokenizer, "." + SEPARATOR)[-1]]
    return start


def _losses(shape: Shape, weights: Weights, ids: Tensor, right: Tensor, labels: Tensor) -> dict[str, Tensor]:
    states = network.hidden_states(shape, weights, ids)
    expecting = states[shape.layers - FRESH_LAYERS]
    balance = torch.tensor([_WRONG_WEIGHT, 1.0])

    def judged(targets: Tensor) -> Tensor:
        known = targets != IGNORED
        logits = network.score(weights, states[-1][known]).float()
        return functional.cross_entropy(logits, targets[known], weight=balance)

    backbone = network.norm(expecting, weights[f"{_HELPERS}norm.weight"])
    written = right != IGNORED
    identity = functional.linear(
        backbone[written], weights[f"{_HELPERS}identity.weight"], weights[f"{_HELPERS}identity.bias"]
    )
    expected = torch.where((right == 1) & (ids != STEP_TAG_ID), ids, IGNORED)
    helper = weights | {"model.norm.weight": weights[f"{_HELPERS}norm.weight"]}
    return {
        "step": judged(labels),
        "token": judged(right),
        "expectation": _EXPECTATION * next_token_loss(helper, expecting, expected),
        "identity": _IDENTITY * functional.cross_entropy(identity.float(), ids[written]),
    }


def evaluate(shape: Shape, weights: Weights, tokenizer: Tokenizer, held_out: Sequence[Sample]) -> float:
    """Compute how well the scores of steps tell right from wrong ones."""
    scores: dict[int, list[float]] = {0: [], 1: []}
    judged = [judgement(tokenizer, sample) for sample in held_out]
    judged.sort(key=lambda example: len(example.ids))
    with torch.no_grad():
        halved = network.half(weights)
        for at in range(0, len(judged), _EVALUATED_AT_ONCE):
            ids, _, labels = examples.pad(judged[at : at + _EVALUATED_AT_ONCE])
            known = labels != IGNORED
            logits = network.score(halved, network.hidden_states(shape, halved, ids)[-1][known]).float()
            for margin, is_right in zip((logits[:, 1] - logits[:, 0]).tolist(), labels[known].tolist(), strict=True):
                scores[is_right].append(margin)
    return area_under_curve(scores[1], scores[0])


def judgement(tokenizer: Tokenizer, sample: Sample) -> Example:
    """Make an example of a sample: the question, then each step and its tag."""
    ids = examples.encode(tokenizer, f"Problem: {sample.question}{SEPARATOR}")
    right, tags = [IGNORED] * len(ids), [IGNORED] * len(ids)
    expected = expected_steps(sample)
    for index, (step, is_right) in enumerate(zip(sample.steps, sample.by_step(), strict=True)):
        wanted = expected[index] if index < len(expected) else ""
        _judge(tokenizer, step, step if is_right else wanted, (ids, right, tags))
    return Example(ids, right, tags)


def _judge(tokenizer: Tokenizer, step: str, wanted: str, to: tuple[list[int], list[int], list[int]]) -> None:
    """Append a step, its tokens' labels and its own label to three lists."""
    ids, right, tags = to
    written, expected = examples.encode(tokenizer, step), examples.encode(tokenizer, wanted)
    is_right = True
    for place, token in enumerate(written):
        is_right = is_right and place < len(expected) and expected[place] == token
        right.append(int(is_right))
    ids += [*written, STEP_TAG_ID]
    right.append(IGNORED)
    tags += [IGNORED] * len(written) + [int(written == expected)]


class _Maker:
    """Makes the examples of all kinds of batches."""

    def __init__(self, tokenizer: Tokenizer, samples: Sequence[Sample]) -> None:
        self._tokenizer = tokenizer
        self._wrong = [sample for sample in samples if sample.right < len(sample.steps)]
        self._right = [sample for sample in samples if sample.right == len(sample.steps)]

    def sheets(self, rng: random.Random, count: int) -> list[Example]:
        """Make sheets of unrelated steps, some with a digit changed."""
        return [self._sheet(rng) for _ in range(count)]

    def _sheet(self, rng: random.Random) -> Example:
        lists: tuple[list[int], list[int], list[int]] = ([], [], [])
        for step in examples.sheet_steps(rng):
            start, _ = examples.result_span(step)
            place = len(lists[0])
            _judge(self._tokenizer, corrupted(rng, step, start) if rng.random() < _SHEET_ERRORS else step, step, lists)
            # What stands before the result was drawn: nothing can be expected there.
            drawn = len(examples.encode(self._tokenizer, step[:start]))
            lists[1][place : place + drawn] = [IGNORED] * drawn
        return Example(*lists)

    def short(self, rng: random.Random, count: int) -> list[Example]:
        """Make short problems, some with a digit changed in their last step."""
        return self._changed(rng, count, (1, 2))

    def whole(self, rng: random.Random, count: int) -> list[Example]:
        """Make whole problems, most of them as models solve them."""
        sampled = round(_SAMPLED_SHARE * count)
        wrong = round(_WRONG_SHARE * sampled)
        picked = rng.choices(self._wrong, k=wrong) + rng.choices(self._right, k=sampled - wrong)
        return [
            *(judgement(self._tokenizer, sample) for sample in picked),
            *self._changed(rng, count - sampled, EVENTS),
        ]

    def _changed(self, rng: random.Random, count: int, events: tuple[int, int]) -> list[Example]:
        made = []
        for story in examples.stories(rng, count, events):
            steps = story.steps
            right = len(steps)
            if rng.random() < _WRONG_SHARE:
                right = rng.randrange(len(steps))
                steps = (*steps[:right], mistold(rng, steps[right]))
            made.append(judgement(self._tokenizer, Sample(story.question, steps, right)))
        return made


def mistold(rng: random.Random, step: str) -> str:
    """Change one digit of a step, or what it says that the event does."""
    verbs = [verb for verb in _VERBS if f" {verb} " in step]
    if len(verbs) == 1 and rng.random() < _MISTOLD_VERBS:
        return step.replace(f" {verbs[0]} ", f" {rng.choice([verb for verb in _VERBS if verb not in verbs])} ")
    return corrupted(rng, step, step.find(")") + 1)


def corrupted(rng: random.Random, step: str, start: int) -> str:
    """Change one digit of a step, at `start` or later."""
    place = rng.choice([index for index in range(start, len(step)) if step[index].isdigit()])
    digit = rng.choice([digit for digit in "0123456789" if digit != step[place]])
    return step[:place] + digit + step[place + 1 :]
