"""Finds where a model goes on with a problem that it makes up, after the end of its solution.

A server that does not name what a model stopped at hides the model's own end. If it is asked to continue there, it
begins another problem, as in the texts that it was trained on.
"""

from __future__ import annotations

import re

_BEGINNING = re.compile(
    r"^[ \t>#*_\[(]*"
    r"(problem|question|exercise|example problem|task|user|human|input|instruction|q)"
    r"[ \t]*(\d{1,3}|no\. ?\d{1,3})?[ \t]*[*_\])]*[ \t]*[:：][*_]*",
    re.IGNORECASE | re.MULTILINE,
)
"""Matches how the statement of a problem, or the turn of a user, begins a line: a word for it and a colon."""


def before_made_up(text: str, *, is_first: bool) -> str | None:
    """Return the part of a text before a made-up problem; `None` if it has none.

    Args:
        text: The beginning of a step.
        is_first: Whether the step is the first one, which may restate the problem that is being solved.
    """
    for found in _BEGINNING.finditer(text):
        before = text[: found.start()].rstrip()
        if before or not is_first:
            return before
    return None
