"""Turns stories into token ids with targets, and those into batches of like lengths."""

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
"""A target that no loss is computed for."""

_ROUND = 32
"""Lengths are rounded up to a multiple of this: the matrix kernels are compiled anew for each length."""

_BATCHES = 8
"""Batches that are drawn at once, so that examples of like length can be put together."""

_SHEET_STEPS = 7


@dataclass(frozen=True, slots=True)
class Example:
    """A sequence, and what is to be predicted at each of its places."""

    ids: list[int]
    targets: list[int]
    """For a language model the next token is the target, so the first target is never used."""
    tags: list[int] | None = None
    """Labels of whole steps, at their tags; for a PRM only."""


Make = Callable[[random.Random, int], list[Example]]
"""Makes a number of examples from a source of random numbers."""


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Turn text into ids."""
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def solution(tokenizer: Tokenizer, story: Story) -> Example:
    """Make a question with its solution; the solution is to be predicted."""
    question = encode(tokenizer, f"Problem: {story.question}{SEPARATOR}")
    written = [*encode(tokenizer, SEPARATOR.join(story.steps)), END_ID]
    return Example(question + written, [IGNORED] * len(question) + written)


def stories(rng: random.Random, count: int, events: tuple[int, int]) -> list[Story]:
    """Draw training stories."""
    return list(islice(draw(Split.TRAIN, seed=rng.randrange(2**40), events=events), count))


def sheet_steps(rng: random.Random, count: int = _SHEET_STEPS) -> list[str]:
    """Draw steps that have nothing to do with each other, numbered."""
    steps = [step for story in stories(rng, count, (1, 1)) for step in story.steps[:-1]]
    return [re.sub(r"^\d", str(number), step) for number, step in enumerate(rng.sample(steps, count), 1)]


def result_span(step: str) -> tuple[int, int]:
    """Find the part of a step that follows from what stands before it: from the first `:` or `=` to the last digit."""
    found = re.search(r"[:=]", step)
    last = max(index for index, character in enumerate(step) if character.isdigit())
    return (found.end() if found else 0), last + 1


def sheet(tokenizer: Tokenizer, rng: random.Random) -> Example:
    """Make a sheet of unrelated steps; what follows from their operands is to be predicted."""
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
    """Draws batches: the same name, seed and index give the same one, so that training can be taken up anywhere."""

    def __init__(self, make: Make, *, name: str, seed: int, size: int) -> None:
        self._make = make
        self._name = f"{name}:{seed}"
        self._size = size
        self._block = -1
        self._drawn: list[list[Example]] = []

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a batch: ids, targets and tags, (size, length) each, padded on the right."""
        block, place = divmod(index, _BATCHES)
        if block != self._block:
            rng = random.Random(f"{self._name}:{block}")
            examples = sorted(self._make(rng, _BATCHES * self._size), key=lambda example: len(example.ids))
            self._drawn = [examples[at : at + self._size] for at in range(0, len(examples), self._size)]
            rng.shuffle(self._drawn)
            self._block = block
        return pad(self._drawn[place])


def pad(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Put examples of different lengths into one batch."""
    length = -(-max(len(example.ids) for example in examples) // _ROUND) * _ROUND

    def filled(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
        return torch.tensor([[*row, *[filler] * (length - len(row))] for row in rows])

    return (
        filled([example.ids for example in examples], PAD_ID),
        filled([example.targets for example in examples], IGNORED),
        filled([example.tags or [] for example in examples], IGNORED),
    )
