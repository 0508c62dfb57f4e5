"""Turns stories into token ids with targets, and those into batches of similar length."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from tokenizers import Tokenizer
from torch import Tensor

from recipe.problems.drawing import Split, draw
from recipe.problems.story import Story
from recipe.train.tokenizer import END_ID, PAD_ID
from shared.domain.text import SEPARATOR

IGNORED = -100
"""Target without a loss."""

_ROUND = 32
"""Lengths are rounded up to a multiple of this, because the matrix kernels are compiled for each length."""

_BATCHES = 8
"""Number of batches drawn together, so that examples of similar length share a batch."""

_SHEET_STEPS = 7


@dataclass(frozen=True, slots=True)
class Example:
    """A sequence, and the target at each position."""

    ids: list[int]
    targets: list[int]
    """A language model predicts each target from the position before it, so the first target is unused."""
    tags: list[int] | None = None
    """Labels of whole steps, at their tags; only for a PRM."""


Make = Callable[[random.Random, int], list[Example]]
"""Makes a number of examples from a source of random numbers."""


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokenize text."""
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def solution(tokenizer: Tokenizer, story: Story) -> Example:
    """Make an example of a question with its solution; the targets are the solution."""
    question = encode(tokenizer, f"Problem: {story.question}{SEPARATOR}")
    written = [*encode(tokenizer, SEPARATOR.join(story.steps)), END_ID]
    return Example(question + written, [IGNORED] * len(question) + written)


def stories(rng: random.Random, count: int, events: tuple[int, int]) -> list[Story]:
    """Draw training stories."""
    return list(islice(draw(Split.TRAIN, seed=rng.randrange(2**40), events=events), count))


def sheet_steps(rng: random.Random, count: int = _SHEET_STEPS) -> list[str]:
    """Draw unrelated steps, numbered."""
    steps = [step for story in stories(rng, count, (1, 1)) for step in story.steps[:-1]]
    return [re.sub(r"^\d", str(number), step) for number, step in enumerate(rng.sample(steps, count), 1)]


def result_span(step: str) -> tuple[int, int]:
    """Return the span of a step that follows from its operands: from the first `:` or `=` to the last digit."""
    found = re.search(r"[:=]", step)
    last = max(index for index, character in enumerate(step) if character.isdigit())
    return (found.end() if found else 0), last + 1


def sheet(tokenizer: Tokenizer, rng: random.Random) -> Example:
    """Make a sheet of unrelated steps; the targets are the parts that follow from the operands."""
    ids: list[int] = []
    targets: list[int] = []
    for step in sheet_steps(rng):
        start, end = result_span(step)
        encoding = tokenizer.encode(step + SEPARATOR, add_special_tokens=False)
        for token, (begin, finish) in zip(encoding.ids, encoding.offsets, strict=True):
            ids.append(token)
            targets.append(token if start <= begin and finish <= end + 1 else IGNORED)
    return Example(ids, targets)


class Batches:
    """Draws batches. Name, seed and index determine a batch, so training can resume at any step."""

    def __init__(self, make: Make, *, name: str, seed: int, size: int) -> None:
        self._make = make
        self._name = f"{name}:{seed}"
        self._size = size
        self._block = -1
        self._drawn: list[list[Example]] = []

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return a batch: ids, targets and tags, (size, length) each, padded on the right."""
        block, place = divmod(index, _BATCHES)
        if block != self._block:
            rng = random.Random(f"{self._name}:{block}")
            examples = sorted(self._make(rng, _BATCHES * self._size), key=lambda example: len(example.ids))
            self._drawn = [examples[at : at + self._size] for at in range(0, len(examples), self._size)]
            rng.shuffle(self._drawn)
            self._block = block
        return pad(self._drawn[place])


def pad(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Pad examples of different lengths to one batch."""
    length = -(-max(len(example.ids) for example in examples) // _ROUND) * _ROUND

    def filled(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
        return torch.tensor([[*row, *[filler] * (length - len(row))] for row in rows])

    return (
        filled([example.ids for example in examples], PAD_ID),
        filled([example.targets for example in examples], IGNORED),
        filled([example.tags or [] for example in examples], IGNORED),
    )
