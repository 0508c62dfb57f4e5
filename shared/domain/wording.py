"""The words with which a text calls something its answer, and the sentences that they are in."""

from __future__ import annotations

import re
from itertools import pairwise

SENTENCE_END = re.compile(
    r"[.!?…][\"'’”)\]*_$]*(?=\s|$)|[。！？]|\n[^\S\n]*(?=\n)|\n(?=\s*(?:[-*+•]\s|\d+[.)]\s|#|\**[A-ZÀ-Þ]))"
)
"""A full stop, a blank line, or a line break before a list item, a heading or a capital letter."""

NAME = re.compile(
    r"\b(?:answers?|ans|antwort|réponse|respuesta|resposta|risposta|antwoord|odpowiedź|ответ)\b|答案|答え|정답"
    r"|\bfinal (?:result|value|solution|total|number|amount|count|cost|price|sum|expression)\b"
    r"|\b(?:correct|right) (?:option|choice)\b",
    re.IGNORECASE,
)
_NEUTRAL = re.compile(
    r"\b(?:so|thus|hence|therefore|consequently|finally|then|and|it['’]s|it|this|that|which|is|are|was|step(?:\s+\d+)?"
    r"|the|our|my|an?(?=\s)|final|correct|right|overall|required|we|get|have|gives?|giving|us|of|equals?|simply"
    r"|to the (?:problem|question)|die|ist|la|est|es|é|è|de|het)\b|最终|所以|因此|我们"
    r"|\\(?:begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+",
    re.IGNORECASE,
)
"""Words around an answer's name and its box that leave it the answer, and commands of LaTeX."""

_SYMBOL = re.compile(r"(?<![^\W\d_])[^\W\d_](?![^\W\d_])|\d")
CONDITION = re.compile(
    r"\b(?:if|for|when|while|unless|until|but|though|except|or|in|on|at|by|which|yet|so far|case|part)\b", re.IGNORECASE
)
WORD = re.compile(r"[^\W_]")


def names_answer(text: str) -> bool:
    """Tell whether a text has a name of answers, and else nothing but neutral words, and symbols after the name."""
    found = NAME.search(text)
    if found is None or has_words(text[: found.start()]):
        return False
    return not has_words(_SYMBOL.sub("", text[found.end() :]))


def has_words(text: str) -> bool:
    """Tell whether a text has other words than neutral ones."""
    return WORD.search(_NEUTRAL.sub("", text)) is not None


def sentences(text: str) -> list[str]:
    """Split a text at the ends of its sentences; the last one is what follows the last end."""
    ends = [0, *(found.end() for found in SENTENCE_END.finditer(text)), len(text)]
    return [text[start:end] for start, end in pairwise(ends)]
