r"""Reads the answer in a step's text: the content of a box such as `\boxed{7}`, and whether the text calls it that.

Boxes in code are examples, boxes of the question are quotations, and an empty box or one with a placeholder, as prompts
contain them, holds nothing. None of them is an answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from shared.domain.markup import without_code
from shared.domain.wording import CONDITION, NAME, SENTENCE_END, WORD, has_words, names_answer, sentences

# --- Boxes ----------------------------------------------------------------------------------------------------------

_GAP = r"[^\S\n]*\n?[^\S\n]*"
_BOX = re.compile(
    r"\\{1,2}(?:boxed|fbox|framebox)(?![A-Za-z])(?:\[[^\[\]\n]*\]){0,2}"
    rf"{_GAP}(?:(?P<brace>\{{)|(?P<number>[-+−]?(?:\d+(?:[.,/:]\d+)*|\.\d+)(?:\\?%)?)"
    r"|(?P<command>\\(?!begin|end|right)[A-Za-z]+(?:\d{1,2})?)|(?<=\s)(?P<letter>[A-Za-z])(?![A-Za-z]))"
)
r"""A box and its argument, which LaTeX also takes without braces. `\\boxed` is one that a model escaped twice."""

_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_OPTION = re.compile(r"\[[^\[\]\n]*\]")
_MATHEMATICS = re.compile(r"\$([^$]+)\$")

_SPACING = re.compile(
    r"\\[hv]?phantom\s*\{[^{}]*\}|\\[hv]space\*?\s*\{[^{}]*\}"
    r"|\\(?:boxed|fbox|framebox|text(?:bf|it|rm|tt|sf)?|math(?:bf|it|rm|tt|sf)|mbox|operatorname|underline"
    r"|qquad|quad|enspace|thinspace|left|right)(?![A-Za-z])"
    r"|\\(?:[,;:!> _]|$)|[\s{}$~\"'“”‘’`_]"
)
"""What prints nothing, or only shapes what it holds. A box with nothing else is empty."""

_BRACKETS = re.compile(r"[<>()\[\]*]")
"""What placeholders may have around them. Alone they are answers, such as `<` or `[]`."""

_PLACEHOLDERS = frozenset((
    "?", "??", "???", ".", "..", "...", "…", r"\ldots", r"\dots", r"\cdots", r"\square", r"\box", "□",
    "answer", "ans", "finalanswer", "theanswer", "thefinalanswer", "youranswer", "yourfinalanswer",
    "answerhere", "youranswerhere", "finalanswerhere", "yourfinalanswerhere", "insertanswerhere",
    "result", "finalresult", "solution", "finalsolution", "yoursolution", "number", "letter", "placeholder",
    "antwort", "réponse", "respuesta", "答案", "最终答案",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Box:
    """A box: its content, and the places of its begin and end in the text."""

    content: str
    start: int
    end: int


def boxed_answer(text: str, *, question: str = "") -> str | None:
    r"""Return the content of the last answer box, stripped, or `None` if there is none.

    Boxes are `\boxed`, `\fbox` and `\framebox`, with braces or without. One with an unbalanced brace does not count. A
    number without braces does, also at the end of the text, where it may have been cut.

    Args:
        text: Text of a step.
        question: The problem's question, which may list the boxes to choose from. A box with the same content as one of
            them is a quotation, unless the text ends with that box alone, or by calling it the answer.
    """
    box = _answer_box(text, without_code(text), question)
    return None if box is None else box.content


def _answer_box(text: str, prose: str, question: str) -> _Box | None:
    """Find the last answer box of a text, given the text without its code as well."""
    found = [box for box in _boxes(text, prose) if not _is_blank(box.content)]
    if found and question and _is_mention(found[-1], prose):
        quoted = {_without_space(box.content) for box in _boxes(question, question)}
        found = [box for box in found if _without_space(box.content) not in quoted]
    return found[-1] if found else None


def _is_blank(content: str) -> bool:
    """Tell whether the content of a box is empty, or a placeholder."""
    inked = _SPACING.sub("", content)
    return not inked or _BRACKETS.sub("", inked).casefold() in _PLACEHOLDERS


def _boxes(text: str, prose: str) -> Iterator[_Box]:
    """Yield the boxes in the order in which they begin."""
    if (first := _BOX.search(prose)) is None:
        return
    closing = _closing_braces(prose, first.start())
    for found in _BOX.finditer(prose, first.start()):
        start, end = found.start(found.lastgroup or 0), found.end()
        if found["brace"]:
            if start not in closing:
                continue
            start, end = start + 1, closing[start]
        elif found["command"]:
            end = _end_of_arguments(prose, end, closing)
        content = text[start:end].strip()
        if whole := _MATHEMATICS.fullmatch(content):
            content = whole[1].strip()
        yield _Box(content, found.start(), end + bool(found["brace"]))


def _closing_braces(text: str, start: int) -> dict[int, int]:
    r"""Map the place of each balanced opening brace to that of its closing one; `\{` is a letter, and `\\{` a brace."""
    opened: list[int] = []
    closing = {}
    for found in _BRACE.finditer(text, start):
        if found[0] == "{":
            opened.append(found.start())
        elif found[0] == "}" and opened:
            closing[opened.pop()] = found.start()
    return closing


def _end_of_arguments(text: str, at: int, closing: dict[int, int]) -> int:
    while True:
        if at in closing:
            at = closing[at] + 1
        elif option := _OPTION.match(text, at):
            at = option.end()
        else:
            return at


def _without_space(text: str) -> str:
    return "".join(text.split())


# --- Statements -----------------------------------------------------------------------------------------------------

_REACH = 1_000
"""Number of characters before and after a box that are read; longer sentences are cut."""

_BOX_MARK = "□"


def states_answer(text: str, *, question: str = "") -> bool:
    r"""Tell whether a text has an answer box, and ends by calling it the answer.

    Only the last sentence decides, and it has to hold the last answer box. It may continue over line breaks, as far as
    the next line begins with neither a capital letter, a list item nor a heading: `The answer is`, and below it a
    formula with the box. It states the answer in one of these forms:

    - A name of answers (`answer`, `final value`, `答案`), with nothing but neutral words and symbols before it and from
      there to the box, and no condition after the box: `So the final answer is $x = \boxed{7}$ metres.` The box may
      come first: `\boxed{7} is the answer.`
    - Any sentence with the box after a line such as `Final answer`.
    - The box without further words. It then continues the sentence before. If there is none, the text is nothing
      but the box, and states it: prompts tell models to box the answer.

    Everything else may be about a part of the solution: `The answer to (a) is \boxed{3}`, `Thus $x = \boxed{3}$`.

    Args:
        text: Text of a step.
        question: As for `boxed_answer`.
    """
    prose = without_code(text)
    box = _answer_box(text, prose, question)
    return box is not None and _is_stated(box, prose)


def _is_stated(box: _Box, prose: str) -> bool:
    before, beginning, rest = _around(box, prose)
    end = box.end + len(rest)
    if rest.rstrip().endswith("?") or WORD.search(prose, end):
        return False
    beginning, rest = _without_boxes(beginning), _without_boxes(rest)
    if not (has_words(beginning) or has_words(rest)):
        return not before or names_answer(_without_boxes(before))
    if names_answer(before) and not has_words(NAME.sub("", before, count=1)):
        return True
    if names_answer(beginning):
        return CONDITION.search(rest) is None
    return not has_words(beginning) and names_answer(rest)


def _is_mention(box: _Box, prose: str) -> bool:
    """Tell whether the sentence of a box has other words, and does not call it the answer."""
    _, beginning, rest = _around(box, prose)
    return has_words(_without_boxes(beginning + rest)) and not _is_stated(box, prose)


def _around(box: _Box, prose: str) -> tuple[str, str, str]:
    """Return the sentence before that of a box, and what its own sentence has before and after it."""
    before, after = prose[max(0, box.start - _REACH) : box.start], prose[box.end : box.end + _REACH]
    *earlier, beginning = sentences(before)
    previous = next((sentence for sentence in reversed(earlier) if WORD.search(sentence)), "")
    ended = SENTENCE_END.search(after)
    return previous, beginning, after[: ended.end()] if ended else after


def _without_boxes(text: str) -> str:
    """Replace each box by a mark, because its content says nothing about it."""
    pieces: list[str] = []
    at = 0
    for box in _boxes(text, text):
        if box.start >= at:
            pieces += text[at : box.start], _BOX_MARK
            at = box.end
    return "".join((*pieces, text[at:]))
