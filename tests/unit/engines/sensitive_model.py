"""A model whose every token depends on all ids before it, so that one wrong id in a prompt changes all that follows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from shared.domain.text import split_step
from tests.unit.engines.tokenizer_kinds import END, tokenizer_of

_NEWLINES = 0.2
"""Share of tokens with a newline; there are few, in various lengths."""


@dataclass(frozen=True)
class _Vocabulary:
    """Tokens of plain text by what they hold."""

    any: list[int]
    words: list[int]
    """Those with a letter or digit."""
    newlines: list[int]
    """Those with a newline."""
    blank: list[int]
    """Those of newlines alone."""


@cache
def _vocabulary(kind: str) -> _Vocabulary:
    texts = {
        index: tokenizer_of(kind).decode([index], skip_special_tokens=True)
        for index in range(tokenizer_of(kind).get_vocab_size())
    }
    plain = {index: text for index, text in texts.items() if text and re.fullmatch(r"[\n -~]+", text)}
    return _Vocabulary(
        any=[index for index, text in plain.items() if "\n" not in text],
        words=[index for index, text in plain.items() if re.search(r"\w", text) and "\n" not in text],
        newlines=[index for index, text in plain.items() if "\n" in text],
        blank=[index for index, text in plain.items() if not text.strip("\n")],
    )


def next_token(kind: str, ids: Sequence[int], *, seed: int, ends_at: int) -> int:
    """Return the token that the model writes after some ids: its end once there are enough of them."""
    if len(ids) >= ends_at:
        return int(tokenizer_of(kind).token_to_id(END))
    digest = hashlib.blake2b(f"{seed}/{list(ids)}".encode(), digest_size=8).digest()
    vocabulary = _vocabulary(kind)
    is_newline, after = digest[0] < 256 * _NEWLINES, [index in vocabulary.newlines for index in ids[-2:]]
    if is_newline and not all(after):
        chosen = vocabulary.blank if any(after[1:]) else vocabulary.newlines
    else:  # Two attempts without words would end the solution.
        chosen = vocabulary.words if any(after) else vocabulary.any
    return chosen[int.from_bytes(digest[1:]) % len(chosen)]


def uninterrupted(kind: str, prompt: Sequence[int], *, seed: int, ends_at: int) -> list[int]:
    """Return the ids of a prompt and of all that the model writes after it in one go, without its end."""
    ids = list(prompt)
    while (token := next_token(kind, ids, seed=seed, ends_at=ends_at)) != tokenizer_of(kind).token_to_id(END):
        ids.append(token)
    return ids


def steps_of(text: str) -> list[str]:
    """Split a text at its steps, without those that hold no words."""
    steps, rest = [], text
    while (cut := split_step(rest)) is not None:
        step, rest = cut
        steps += [step] if any(map(str.isalnum, step)) else []
    return [*steps, rest.strip()]
