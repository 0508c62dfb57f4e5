"""Reads an answer that a solution ends with in words, without a box: `The answer is 720.`, `#### 720`."""

from __future__ import annotations

import re

from shared.domain.markup import without_code
from shared.domain.wording import CONDITION, NAME, WORD, has_words, names_answer, sentences

_REACH = 1_000
"""Number of characters before the end of the text that are read."""

_EMPHASIS = re.compile(r"(?<![\w*_])[*_]{1,3}|[*_]{1,3}(?![\w*_])")

_BEFORE_VALUE = re.compile(
    r"(?:[\s:=,>#：]|\b(?:to the (?:problem|question)|so|thus|hence|therefore|then|simply|is|are|was|equals?|equal to"
    r"|ist|est|es|é|è)\b|是|为)*",
    re.IGNORECASE,
)
_AFTER_VALUE = re.compile(r"\s+(?:is|are|was)\b(?:\s*,?\s*\b(?:so|thus|hence|therefore|then)\b\s*,?)?", re.IGNORECASE)
_REASON = re.compile(r",?\s+(?:because|since|as)\s.*", re.IGNORECASE | re.DOTALL)
_END = re.compile(r"[\s.!。！]*$")

_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_VALUE = re.compile(
    rf"""
    (?P<choice>yes|no|true|false|(?-i:[A-Z])|\((?-i:[A-Z])\))
  | (?:
        (?:\$\$(?P<display>[^$]+)\$\$|\$(?P<inline>[^$]+)\$|\\\[(?P<bracket>.+?)\\\]|\\\((?P<paren>.+?)\\\))
      | (?:[A-Za-z]\s*=\s*|[-+*/×÷·^().,\d\s$€£%]+=\s*)?          # x = 5, and 3 + 4 = 7
        (?:\\?[$€£¥]\s?)?(?P<number>[-+−]?(?:{_NUMBER})(?:/[0-9]+)?(?:\s?\\?%)?)
    )
    (?P<unit>(?:\s+[^\W\d_]+){{0,4}})
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
"""A value with what may be around it. Numbers are those of English, because `1,234` and `1.234` differ elsewhere."""

_NO_UNIT = re.compile(
    r"\b(?:and|not|no|nor|is|are|was|than|less|more|fewer|most|least|too|times|plus|minus|over|to|wrong|incorrect"
    r"|dozens?|hundreds?|thousands?|[mbtr]+illions?|half|squared|cubed|pi|percent|per cent)\b",
    re.IGNORECASE,
)
"""Words after a number that make it another one, or no answer."""

_NO_VALUE = re.compile(r"[;?]|,\s|\\text|\\q?quad|box|\b(?:and|or)\b")
"""In a formula: several values, words, or a box, which is read as such."""
_LETTER_OR_DIGIT = re.compile(r"[A-Za-z0-9]")


def worded_answer(text: str) -> str | None:
    """Return the answer that a text ends by stating without a box, or `None`.

    Only the last sentence decides, and it has to be nothing but one of these forms:

    - A line of four number signs and a value, as in GSM8K: `#### 720`.
    - A name of answers (see `wording`), with neutral words alone before it, and the value after it: `**Answer:** 720`,
      `So the final answer is $720.` The value may come first: `720 is the answer.`
    - The value, after a sentence or line that only names the answer: `The answer is:`, and below it `720`.

    A value is a number, a formula between delimiters, a capital letter, or yes, no, true or false. Currency signs,
    delimiters and up to four words of a unit are left out. Of an equation, the last side is the value.
    """
    prose = _EMPHASIS.sub("", without_code(text)[-_REACH:])
    said = [sentence for sentence in sentences(prose) if WORD.search(sentence)]
    if not said or said[-1].rstrip().endswith(("?", "？")):
        return None
    last = said[-1].strip()
    if last.startswith("####"):
        last = last.removeprefix("####")
        if (found := _value(last)) is not None:
            return found
    if (found := _named_value(last)) is not None:
        return found
    if len(said) > 1 and _only_names_answer(said[-2]):
        return _value(last)
    return None


def _only_names_answer(sentence: str) -> bool:
    is_whole = sentence.rstrip().endswith((".", "!", "?", "。", "？"))
    return not is_whole and names_answer(sentence) and not has_words(NAME.sub("", sentence, count=1))


def _named_value(sentence: str) -> str | None:
    """Read the value in a sentence that names it the answer."""
    if not (names := list(NAME.finditer(sentence))):
        return None
    name = names[-1]
    before, after = sentence[: name.start()], sentence[name.end() :]
    if WORD.search(after) is None:
        return _value_before(before)
    if has_words(NAME.sub("", before)):
        return None
    begin = _BEFORE_VALUE.match(after)
    assert begin is not None, "the pattern matches an empty string"
    return _value(after[begin.end() :]) if begin.end() else None


def _value_before(text: str) -> str | None:
    """Read the value at the begin of `720 is the` (answer)."""
    begin = _BEFORE_VALUE.match(text)
    assert begin is not None, "the pattern matches an empty string"
    text = text[begin.end() :]
    if (verb := _AFTER_VALUE.search(text)) is None or has_words(text[verb.end() :]):
        return None
    return _value(text[: verb.start()])


def _value(text: str) -> str | None:
    """Read a text that is nothing but a value."""
    text = _END.sub("", _REASON.sub("", text.strip()))
    found = _VALUE.fullmatch(text)
    if found is None:
        return None
    if found["choice"]:
        return found["choice"].strip("()")
    if CONDITION.search(found["unit"]) or _NO_UNIT.search(found["unit"]):
        return None
    if found["number"]:
        return found["number"].replace("\\%", "%").replace(" ", "")
    formula = next(found[name] for name in ("display", "inline", "bracket", "paren") if found[name])
    if _NO_VALUE.search(formula):
        return None
    value = formula.rpartition("=")[2].strip()
    return value if _LETTER_OR_DIGIT.search(value) else None
