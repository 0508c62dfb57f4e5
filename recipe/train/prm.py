"""Trains the process reward model: the large model's layers, and fresh ones that compare what it expects with a draft.

The large model knows right from wrong: what it hands on after its last layer tells what comes next and, since it was
trained to keep it, which token was written. Two trainings follow each other:

1. its layers learn to go on where tags stand instead of blank lines, by the losses that they were made with;
2. then they stay as they are, and fresh layers learn to judge. The first of these learns to compare, from solutions in
   which many tokens were exchanged: is this token one that the large model expected? Later it is asked less often, and
   the steps' labels more.

Trained together, the fresh layers' first errors spoil in the large model's layers what they are to read from them. And
from the steps' labels alone the comparison is hardly learned: there is one unexpected token in a solution at most.

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

FRESH_LAYERS = 2

_IDENTITY = 0.2
_WRONG_WEIGHT, _SURPRISE_WEIGHT = 2.0, 3.0
_EXPECTED = 0.5
"""A token is expected from this probability on."""
_EXCHANGED = 0.08
"""Share of the tokens that are exchanged where comparing is learned."""
_TURNS = 5
"""One batch in this many goes back to comparing, so that it is not unlearned."""
_WRONG_SHARE = 0.6
"""Share of the examples with an error, of those that are made or drawn here."""
_SAMPLED_SHARE = 0.65
"""Share of the whole problems that models wrote; the others are solutions with a digit changed."""
_SHEET_ERRORS = 0.4
_VERBS = ("makes", "leaves", "is")
_MISTOLD_VERBS = 0.4
_EVALUATED_AT_ONCE = 50
_REPORT_EVERY = 100
_EARLIER = 1_000_000
"""Where the batches of the first training are counted from, so that the second one meets others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a PRM is trained."""

    name: str
    adapting: Schedule
    """Of the large model's layers."""
    judging: Schedule
    """Of the fresh layers."""
    seed: int
    compare_until: float
    """Share of the second training in which nothing is learned but to compare."""
    simple_until: float
    """Share of it in which two of three batches that are judged are sheets and short problems."""


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

    adapting = Training(f"{plan.name}-layers", _adapted(tokenizer, weights), plan.adapting, folder)

    def expecting(step: int) -> Losses:
        kind = ("whole", "short")[step % 2]
        ids, right, _ = batches[kind][_EARLIER + step]
        return _expectation(large, network.half(adapting.weights), ids, right, kind)

    adapting.run(expecting)
    layers = {name: weight.detach() for name, weight in network.without_helpers(adapting.weights).items()}
    halved = network.half(layers)
    judging = Training(plan.name, _fresh(plan, large, layers), plan.judging, folder)

    def losses_of(step: int) -> Losses:
        kind = kind_of(step)
        ids, right, labels = batches[kind][step]
        with torch.no_grad():
            handed_on = network.hidden_states(large, halved, ids)[-1]
        fresh = network.half(judging.weights)
        if kind == "exchanged":
            compared = network.through(shape, fresh, handed_on, [large.layers])[-1]
            return {kind: _surprise_loss(fresh, compared, _surprises(halved, handed_on, ids, right))}
        last = network.through(shape, fresh, handed_on, range(large.layers, shape.layers))[-1]
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


def _adapted(tokenizer: Tokenizer, weights: Weights) -> Weights:
    """Copy the large model's weights; the tag, which it has never seen, begins as the blank line that it stands for."""
    start = {name: weight.detach().clone() for name, weight in weights.items()}
    embedding = start["model.embed_tokens.weight"]
    embedding[STEP_TAG_ID] = embedding[examples.encode(tokenizer, "." + SEPARATOR)[-1]]
    return start


def _fresh(plan: Plan, large: Shape, layers: Weights) -> Weights:
    """Draw what goes on top of the large model's layers."""
    fresh = {"model.norm.weight": layers["model.norm.weight"].clone()} | network.fresh_score(large, plan.seed)
    fresh |= network.fresh_surprise(large, plan.seed)
    for layer in range(large.layers, large.layers + FRESH_LAYERS):
        fresh |= network.comparing_layer(large, layer, plan.seed)
    return fresh


def _expectation(large: Shape, weights: Weights, ids: Tensor, right: Tensor, kind: str) -> dict[str, Tensor]:
    """Compute the losses that keep the large model's layers what they are: expecting what is right, telling tokens."""
    last = network.hidden_states(large, weights, ids)[-1]
    expected = torch.where((right == 1) & (ids != STEP_TAG_ID), ids, IGNORED)
    states = network.norm(last, weights["model.norm.weight"])
    return {
        kind: next_token_loss(weights, last, expected),
        "identity": _IDENTITY * identity_loss(weights, states, ids, right != IGNORED),
    }


def _surprises(weights: Weights, handed_on: Tensor, ids: Tensor, right: Tensor) -> Tensor:
    """Tell of each token of a step whether the large model expected it: 1 where it did, 0 where it did not."""
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

    def exchanged(self, rng: random.Random, count: int) -> list[Example]:
        """Make whole problems in whose solutions many tokens were exchanged, a digit for another digit."""
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
