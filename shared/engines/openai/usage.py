"""Tokens of a request: as the server counted them, or estimated where it did not."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CHARACTERS_PER_TOKEN = 4
"""Characters of a token in English prose, roughly; in formulas there are fewer, so this estimates too few."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a server counted; `None` stands for a count that it did not report."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    """Those of `prompt_tokens` that were not computed again, at most all of them; 0 if they are not reported."""

    @classmethod
    def read(cls, value: object) -> Usage:
        """Read the `usage` of an answer, whatever of it is there.

        No prompt has 0 tokens, so servers that fill in zeros have not counted it.
        """
        if not isinstance(value, Mapping):
            return cls()
        prompt = _count(value.get("prompt_tokens")) or None
        details = value.get("prompt_tokens_details")
        cached = _count(details.get("cached_tokens")) if isinstance(details, Mapping) else 0
        return cls(prompt, _count(value.get("completion_tokens")), min(cached or 0, prompt or 0))

    @property
    def computed_tokens(self) -> int | None:
        """Prompt tokens that were computed, if the server counted them."""
        return None if self.prompt_tokens is None else self.prompt_tokens - self.cached_tokens


@dataclass(slots=True)
class Spread:
    """How the tokens of an answer are spread over its characters, as they arrived."""

    characters: int = 0
    """Number of characters so far."""
    _ends: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])
    """Numbers of characters and of tokens after each piece."""

    def note(self, tokens: int) -> None:
        """Note the number of tokens so far, after a piece with text."""
        self._ends.append((self.characters, tokens))

    def part_of_last(self, tokens: int, characters: int) -> int:
        """Return how many of an answer's tokens are those of its last characters, its end included.

        A token that also has an earlier character is none of them. Within a piece, all characters count alike.

        Args:
            tokens: Number of tokens of the answer; one for its end, which has no text, may be among them.
            characters: Number of the last characters.
        """
        cut, (_, whole) = self.characters - characters, self._ends[-1]
        if characters <= 0 or cut <= 0:
            return tokens if characters > 0 else 0
        place = bisect_left(self._ends, (cut, 0))
        (begin, before), (end, after) = self._ends[place - 1 : place + 1]
        standing = before + (after - before) * (cut - begin) / (end - begin)
        # Pieces of several tokens, and tokens that the server hides, are spread evenly.
        scale = 1.0 if whole <= tokens <= whole + 1 else tokens / whole
        return max(0, tokens - math.ceil(standing * scale))


def estimate_tokens(text: str) -> int:
    """Estimate the number of tokens of a text that no tokenizer of the model is at hand for."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def _count(value: Any) -> int | None:
    """Return a number of tokens, or `None` if it cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return int(value)
