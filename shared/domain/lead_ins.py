"""Recognises a lead-in: a paragraph that announces what follows it, and is no step by itself."""

from __future__ import annotations

import re

from shared.domain.worded_answers import worded_answer

LEAD_IN_BLANK_LINES = 3
"""Maximum number of blank lines after lead-ins in one step: a title, a heading and a line with a colon may follow each
other, but a model may write nothing else."""

_LONGEST_HEADING = 160
"""Number of characters; a longer line is a sentence, however it is marked."""

_ANNOUNCING = re.compile(r"[:：][*_]*$")
_HEADING = re.compile(
    r"""
      (?:(?:\d{1,9}[.)]|[-*+])\s+)?                                    # an item of a list, whose text is bold
      (?P<mark>\*{2,3}|__)(?P<bold>(?:(?!(?P=mark)).)+)(?P=mark)
    | \#{1,6}\s+(?P<marked>.+)
    | \\(?:textbf|(?:sub){0,2}section\*?|paragraph\*?)\{(?P<latex>[^{}]+)\}
    | (?P<plain>[Ss]tep\s+\d{1,3})\.?
    """,
    re.VERBOSE,
)
_STATEMENT = re.compile(r"[=≈]|[.!?。！？]$")
"""In bold text: a result or a sentence, and so a step."""
_LETTER = re.compile(r"[^\W\d_]")


def is_lead_in(paragraph: str) -> bool:
    """Tell whether a paragraph is a lead-in, so that the blank line after it ends no step.

    It is one if its last line ends with a colon, or if it is nothing but a heading: a line that Markdown or LaTeX marks
    as one, a line in bold that holds neither a sentence nor an equation, or `Step 1`. A heading needs a letter, and is
    none if it has the answer, as in `#### 720`.

    Args:
        paragraph: Lines between two blank lines, with spaces instead of code.
    """
    paragraph = paragraph.strip()
    if _ANNOUNCING.search(paragraph):
        return _LETTER.search(paragraph) is not None
    if len(paragraph) > _LONGEST_HEADING or (found := _HEADING.fullmatch(paragraph)) is None:
        return False
    title = found["bold"] or found["marked"] or found["latex"] or found["plain"]
    if _LETTER.search(title) is None or "box" in title or (found["bold"] and _STATEMENT.search(title)):
        return False
    return worded_answer(paragraph) is None
