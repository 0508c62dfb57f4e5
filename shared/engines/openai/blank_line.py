r"""Finds out how a server's model reads the blank line at the end of a text that it is to continue.

Many tokenizers encode a blank line at the end of a text otherwise than before a word; see `solution_ids`. Servers
report how many tokens a prompt has, and that tells the cases apart. `One\n\nA` always has the blank line as it is
before text:

============================ ============================== =====================================
tokens of `One\n\n`          tokens of `One\n`              the model continues
============================ ============================== =====================================
1 less                       any                            the whole blank line
other                        2 less                         its first newline, and writes the second
as many as `One`             any                            nothing: the chat template strips it
============================ ============================== =====================================
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from shared.domain.text import SEPARATOR
from shared.engines.port import EngineUnfit

QUESTION = "How much is one and one?"
"""Question of the probe."""
STEP = "One"
"""Beginning of the solution in the probe: it ends in a letter, because marks merge with newlines."""


class TemplateStrips(EngineUnfit):
    """The chat template strips the blank line at the end of a step; set TRIM_PROMPT_STYLE to completions."""

    code = "request_refused"
    may_be_the_calls = False


class BlankLine(StrEnum):
    """What a prompt keeps of a blank line at its end."""

    WHOLE = "whole"
    FIRST_NEWLINE = "first_newline"


def find_blank_line(count: Callable[[str], int]) -> BlankLine:
    """Find out what a prompt keeps of a blank line at its end.

    Args:
        count: Returns the number of tokens of the prompt with a solution so far, or 0 if the server does not tell.

    Raises:
        TemplateStrips: The prompt has the same tokens without the blank line.
    """
    before_text = count(STEP + SEPARATOR + "A")
    whole = count(STEP + SEPARATOR)
    if not (before_text and whole):
        return BlankLine.WHOLE
    if whole == count(STEP):
        raise TemplateStrips
    if whole == before_text - 1 or count(STEP + SEPARATOR[:1]) != before_text - 2:
        return BlankLine.WHOLE  # Also if neither form is right: it is what the model was asked so far.
    return BlankLine.FIRST_NEWLINE


def shortened(text: str, kept: BlankLine) -> str:
    """Return the text to send for one that a model is to continue."""
    is_shorter = kept is BlankLine.FIRST_NEWLINE and text.endswith(SEPARATOR)
    return text[:-1] if is_shorter else text
