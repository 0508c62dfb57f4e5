"""Text that others wrote, as a terminal may show it, and sentences that fit into its width."""

from __future__ import annotations

import shutil
import textwrap

WIDEST = 120
"""Maximum number of columns of a sentence; longer lines are hard to read."""


def printable(text: str) -> str:
    """Return text with control characters as escapes, so that it cannot change what the terminal shows."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def hanging(first: str, sentence: str, *, indent: int) -> str:
    """Return a sentence in lines that fit into the terminal; the first one follows a heading.

    Args:
        first: The heading, padded to `indent`.
        sentence: The sentence.
        indent: Columns before each further line.
    """
    width = min(shutil.get_terminal_size((WIDEST, 0)).columns, WIDEST)
    return textwrap.fill(
        sentence,
        width=max(width, indent + 30),
        initial_indent=first,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
