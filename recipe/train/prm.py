"""Trains process reward models: layers of a language model, and new layers that compare a draft with its expectation.

A language model knows right from wrong, as far as it can solve the problems. The output of its last layer encodes the
next token and, if it was trained to keep it, the token that was written. There are two trainings:

1. The language model's layers learn to read tags instead of blank lines, with the losses of a language model that
   keeps the written token.
2. These layers are frozen, and new layers learn to judge. The first new layer learns to compare, from solutions in
   which many tokens were replaced: did the layers below expect this token? Later, fewer batches compare and more train
   the steps' labels.

If all layers trained together, the new layers' early errors would damage the layers that they read. From the steps'
labels alone they hardly learn to compare, because a solution has at most one unexpected token.

Each step has a label at its tag. Each token has one too: whether the step is right up to there.
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

from evaluation.metrics import area_under_curve
from recipe.problems.drawing import EVENTS
from recipe.train import examples, network
from recipe.train.examples import IGNORED, Batches, Example
from recipe.train.language_model import identity_loss, next_token_loss
from recipe.train.loop import Losses, Schedule, Training
from recipe.train.network import Shape, Weights
from recipe.train.samples import Sample, expected_steps
from recipe.train.tokenizer import STEP_TAG_ID
from shared.domain.text import SEPARATOR

_IDENTITY = 0.2
_WRONG_WEIGHT, _SURPRISE_WEIGHT = 2.0, 3.0
_EXPECTED = 0.5
"""Minimum probability of an expected token."""
_EXCHANGED = 0.08
"""Share of the tokens that are replaced in comparisons."""
_TURNS = 5
"""One batch in this many is a comparison, so that the model does not forget how."""
_WRONG_SHARE = 0.6
"""Share of the examples that have an error."""
_SAMPLED_SHARE = 0.65
"""Share of the whole problems that models wrote; the others are correct solutions with one digit changed."""
_SHEET_ERRORS = 0.4
_VERBS = ("makes", "leaves", "is")
_MISTOLD_VERBS = 0.4
_EVALUATED_AT_ONCE = 50
_REPORT_EVERY = 100
_EARLIER = 1_000_000
"""First batch index of the first training, so that the second one sees other batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to train a PRM."""

    name: str
    layers: int
    """Number of layers that it takes from the language model, from the first one on."""
    fresh_layers: int
    """Number of new layers on top of them."""
    adapting: Schedule
    """Schedule of the language model's layers."""
    judging: Schedule
    """Schedule of the new layers."""
    seed: int
    compare_until: float
    """Share of the second training, at its start, with only comparisons."""
    simple_until: float
    """Share of the second training in which two of three judged batches are sheets or short problems."""
    wide: int | None = None
    """Width of the layers' inner part; `None` is that of the language model, whose first units a narrower PRM takes."""


def shape_of(plan: Plan, model: Shape) -> Shape:
    """Return the shape of the PRM that is made from a language model."""
    return replace(model, layers=plan.layers + plan.fresh_layers, wide=plan.wide or model.wide)


def train(
    plan: Plan,
    tokenizer: Tokenizer,
    *,
    model: Shape,
    weights: Weights,
    training: Sequence[Sample],
    held_out: Sequence[Sample],
    folder: Path,
) -> Weights:
    """Train a PRM from a language model, or resume its training.

    Args:
        plan: How to train it.
        tokenizer: The tokenizer.
        model: Shape of the language model.
        weights: Weights of the language model, with or without its helpers.
        training: Samples to train on.
        held_out: Samples to measure on.
        folder: Folder of the checkpoints.

    Returns:
        The weights of the PRM, without helpers.
    """
    shape = shape_of(plan, model)
    base = replace(shape, layers=plan.layers)
    maker = _Maker(tokenizer, training)
    batches = {
        "sheets": Batches(maker.sheets, name="prm-sheets", seed=plan.seed, size=20),
        "short": Batches(maker.short, name="prm-short", seed=plan.seed, size=36),
        "whole": Batches(maker.whole, name="prm-whole", seed=plan.seed, size=22),
        "exchanged": Batches(maker.exchanged, name="prm-exchanged", seed=plan.seed, size=20),
    }

    def kind_of(step: int) -> str:
        if step < plan.compare_until * plan.judging.steps or step % _TURNS == 1:
            return "exchanged"
        turns = 3 if step < plan.simple_until * plan.judging.steps else 8
        return {0: "sheets", 1: "short"}.get(step % turns, "whole")

    start = _adapted(plan, tokenizer, base, weights)
    adapting = Training(f"{plan.name}-layers", start, plan.adapting, folder)

    def expecting(step: int) -> Losses:
        kind = ("whole", "short")[step % 2]
        ids, right, _ = batches[kind][_EARLIER + step]
        return _expectation(base, network.half(adapting.weights), ids, right, kind)

    adapting.run(expecting)
    layers = {name: weight.detach() for name, weight in network.without_helpers(adapting.weights).items()}
    halved = network.half(layers)
    judging = Training(plan.name, _fresh(plan, base, layers), plan.judging, folder)

    def losses_of(step: int) -> Losses:
        kind = kind_of(step)
        ids, right, labels = batches[kind][step]
        with torch.no_grad():
            handed_on = network.hidden_states(base, halved, ids)[-1]
        fresh = network.half(judging.weights)
        if kind == "exchanged":
            compared = network.through(shape, fresh, handed_on, [base.layers])[-1]
            return {kind: _surprise_loss(fresh, compared, _surprises(halved, handed_on, ids, right))}
        last = network.through(shape, fresh, handed_on, range(base.layers, shape.layers))[-1]
        return {
            f"{kind} step": _judgement_loss(fresh, last, labels),
            f"{kind} token": _judgement_loss(fresh, last, right),
        }

    def report() -> bool:
        if judging.step % _REPORT_EVERY == 0:
            area = evaluate(shape, layers | network.without_helpers(judging.weights), tokenizer, held_out)
            print(f"{plan.name}: AUC on held-out steps {area:.4f}", flush=True)
        return False

    judging.run(losses_of, is_enough=report)
    report()
    return layers | network.without_helpers(judging.weights)


def _adapted(plan: Plan, tokenizer: Tokenizer, base: Shape, weights: Weights) -> Weights:
    """Copy the language model's weights up to its last layer that the PRM takes.

    The tag's embedding, which the model never saw, starts as a copy of the blank line's. The helper that identifies
    tokens is new if the model was trained without it.
    """
    taken = network.narrowed(network.lowest_layers(weights, base.layers), base.wide)
    start = {name: weight.detach().clone() for name, weight in taken.items()}
    # After the others: the order of the weights decides how the norm of the gradients is rounded.
    start |= {name: weight for name, weight in network.fresh_identity(base, plan.seed).items() if name not in start}
    embedding = start["model.embed_tokens.weight"]
    embedding[STEP_TAG_ID] = embedding[examples.encode(tokenizer, "." + SEPARATOR)[-1]]
    return start


def _fresh(plan: Plan, base: Shape, layers: Weights) -> Weights:
    """Draw the weights on top of the language model's layers."""
    fresh = {"model.norm.weight": layers["model.norm.weight"].clone()} | network.fresh_score(base, plan.seed)
    fresh |= network.fresh_surprise(base, plan.seed)
    for layer in range(base.layers, base.layers + plan.fresh_layers):
        fresh |= network.comparing_layer(base, layer, plan.seed)
    return fresh


def _expectation(base: Shape, weights: Weights, ids: Tensor, right: Tensor, kind: str) -> dict[str, Tensor]:
    """Compute the losses of the language model's layers: predict right tokens, identify written ones."""
    last = network.hidden_states(base, weights, ids)[-1]
    expected = torch.where((right == 1) & (ids != STEP_TAG_ID), ids, IGNORED)
    states = network.norm(last, weights["model.norm.weight"])
    return {
        kind: next_token_loss(weights, last, expected),
        "identity": _IDENTITY * identity_loss(weights, states, ids, right != IGNORED),
    }


def _surprises(weights: Weights, handed_on: Tensor, ids: Tensor, right: Tensor) -> Tensor:
    """Label each token of a step: 1 if the layers below expected it, 0 if not."""
    wanted = right[:, 1:] != IGNORED
    states = network.norm(handed_on[:, :-1][wanted], weights["model.norm.weight"])
    chances = functional.linear(states, weights["model.embed_tokens.weight"]).float().softmax(-1)
    found = torch.full_like(ids, IGNORED)
    found[:, 1:][wanted] = (chances.gather(-1, ids[:, 1:][wanted][:, None])[:, 0] > _EXPECTED).long()
    return found


def _surprise_loss(weights: Weights, compared: Tensor, labels: Tensor) -> Tensor:
    known = labels != IGNORED
    states = network.norm(compared[known], weights[f"{network.HELPERS}norm.weight"])
    logits = functional.linear(
        states, weights[f"{network.HELPERS}surprise.weight"], weights[f"{network.HELPERS}surprise.bias"]
    )
    return functional.cross_entropy(logits.float(), labels[known], weight=torch.tensor([_SURPRISE_WEIGHT, 1.0]))


def _judgement_loss(weights: Weights, last: Tensor, labels: Tensor) -> Tensor:
    known = labels != IGNORED
    logits = network.score(weights, last[known]).float()
    return functional.cross_entropy(logits, labels[known], weight=torch.tensor([_WRONG_WEIGHT, 1.0]))


def evaluate(shape: Shape, weights: Weights, tokenizer: Tokenizer, held_out: Sequence[Sample]) -> float:
    """Compute the AUC of the steps' scores."""
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
    """Make an example of a sample: the question, then each step with its tag.

    After the first error every step is wrong, whatever it says: nothing right follows from it.
    """
    ids = examples.encode(tokenizer, f"Problem: {sample.question}{SEPARATOR}")
    right, tags = [IGNORED] * len(ids), [IGNORED] * len(ids)
    expected = expected_steps(sample)
    for index, (step, is_right) in enumerate(zip(sample.steps, sample.by_step(), strict=True)):
        wanted = expected[index] if index < len(expected) and index <= sample.right else ""
        _judge(tokenizer, step, step if is_right else wanted, (ids, right, tags))
    return Example(ids, right, tags)


def _judge(tokenizer: Tokenizer, step: str, wanted: str, to: tuple[list[int], list[int], list[int]]) -> None:
    """Append a step, the labels of its tokens and the label of the step to three lists."""
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
        self._digits = [examples.encode(tokenizer, digit)[0] for digit in "0123456789"]
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
            # Operands were drawn, so no model can expect them.
            drawn = len(examples.encode(self._tokenizer, step[:start]))
            lists[1][place : place + drawn] = [IGNORED] * drawn
        return Example(*lists)

    def short(self, rng: random.Random, count: int) -> list[Example]:
        """Make short problems, some with a digit changed in their last step."""
        return self._changed(rng, count, (1, 2))

    def whole(self, rng: random.Random, count: int) -> list[Example]:
        """Make whole problems, most of them with solutions that models wrote."""
        sampled = round(_SAMPLED_SHARE * count)
        wrong = round(_WRONG_SHARE * sampled)
        picked = rng.choices(self._wrong, k=wrong) + rng.choices(self._right, k=sampled - wrong)
        return [
            *(judgement(self._tokenizer, sample) for sample in picked),
            *self._changed(rng, count - sampled, EVENTS),
        ]

    def exchanged(self, rng: random.Random, count: int) -> list[Example]:
        """Make whole problems with many tokens of the solution replaced, digits by digits."""
        made = []
        for story in examples.stories(rng, count, EVENTS):
            example = judgement(self._tokenizer, Sample(story.question, story.steps, len(story.steps)))
            places = [place for place, label in enumerate(example.targets) if label != IGNORED]
            written = [example.ids[place] for place in places]
            ids = list(example.ids)
            for place in places:
                if rng.random() < _EXCHANGED:
                    ids[place] = rng.choice(self._digits if ids[place] in self._digits else written)
            made.append(replace(example, ids=ids))
        return made

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
    """Change one digit or the verb of a step."""
    verbs = [verb for verb in _VERBS if f" {verb} " in step]
    if len(verbs) == 1 and rng.random() < _MISTOLD_VERBS:
        return step.replace(f" {verbs[0]} ", f" {rng.choice([verb for verb in _VERBS if verb not in verbs])} ")
    return corrupted(rng, step, step.find(")") + 1)


def corrupted(rng: random.Random, step: str, start: int) -> str:
    """Change one digit of a step, at `start` or later."""
    place = rng.choice([index for index in range(start, len(step)) if step[index].isdigit()])
    digit = rng.choice([digit for digit in "0123456789" if digit != step[place]])
    return step[:place] + digit + step[place + 1 :]
