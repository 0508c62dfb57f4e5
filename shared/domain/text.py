"""Reading a solution's text: where a step ends, and which steps hold no words.

The step separator is a blank line. It is never part of a step's text: joining puts it back.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from decimal import Decimal

from shared.domain.lead_ins import LEAD_IN_BLANK_LINES, is_lead_in
from shared.domain.markup import BLANK_LINE, read_markup

SEPARATOR = "\n\n"
"""Ends a step. Not part of the step's text; joining puts it back."""

STOPS = (SEPARATOR, "\n \n", "\r\n\r\n", "\n\t\n")
"""The separator as models commonly write it, for servers that stop there. OpenAI's API allows four at most; text that
runs on past another blank line is cut."""

STEP_TAG = "<extra_0>"
"""Closes a step in the input of PRMs like Qwen's: the token at which they output the step's score."""

_WORD_CHARACTER = re.compile(r"[^\W_]")
"""A letter or a digit of any script."""

_BLANK_LINES = re.compile(r"(?:[^\S\n]*\n)+")


def join_steps(steps: Sequence[str]) -> str:
    """Join the texts of steps into the text that a model continues, closing separator included.

    An empty sequence gives an empty string.
    """
    return "".join(step + SEPARATOR for step in steps)


def is_degenerate(text: str) -> bool:
    """Tell whether a step holds only white space and punctuation: it has no words."""
    return _WORD_CHARACTER.search(text) is None


def is_open(text: str) -> bool:
    """Tell whether text ends inside code or a LaTeX construct, where a blank line ends no step.

    One that is never closed holds a limited number of blank lines; see `markup`.
    """
    *_, (_, _, is_inside) = read_markup(text)
    return is_inside


def split_step(text: str) -> tuple[str, str] | None:
    """Split generated text at its first step end: a blank line, white space in it or not.

    A blank line inside a construct ends no step, and neither does one after a lead-in, up to a limit (see `markup` and
    `lead_ins`). Only the text before the blank line decides, so the step is the same when the text arrives in pieces.

    Args:
        text: All that was generated since the last step end. Blank lines before the first word are part of
            the (degenerate) step that they close.

    Returns:
        The step's text, stripped, and what follows the separator and further blank lines; `None` while the step is
        still open.
    """
    if BLANK_LINE.search(text) is None:
        return None  # Engines call this for each line, and few lines are blank.
    held, is_held = 0, False
    for end, paragraph, is_inside in read_markup(text):
        if is_inside:
            is_held = False
        elif blank := _BLANK_LINES.match(text, end + 1):
            # One of several blank lines in a row counts like the first.
            is_held = held < LEAD_IN_BLANK_LINES and (is_lead_in(paragraph) or (is_held and not paragraph.strip()))
            if not is_held:
                return text[:end].strip(), text[blank.end() :]
            held += 1
    return None


def extend_digest(digest: str, text: str) -> str:
    """Extend a digest of a prefix by one more step.

    A draft names the digest of what it continues, so that a draft of another prefix is never taken for one of
    this one, whatever the order in which messages arrive. Digests are 16 hexadecimal digits.
    """
    return hashlib.blake2b(f"{digest}\x1f{text}".encode(), digest_size=8).hexdigest()


def prefix_digest(question: str, steps: Sequence[str]) -> str:
    """Compute the digest of a question and the steps that follow it."""
    digest = extend_digest("", question)
    for text in steps:
        digest = extend_digest(digest, text)
    return digest


def text_bytes(*texts: str) -> int:
    """Count the bytes of texts in UTF-8."""
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def as_number(text: str) -> Decimal | None:
    """Read an answer as a plain decimal number (`1,200` and `-3.50` are), or return `None`.

    Model text is compared, never evaluated.
    """
    if not re.fullmatch(r"[+-]?(\d{1,3}(,\d{3})+|\d{1,40})(\.\d{1,40})?", text):
        return None
    return Decimal(text.replace(",", ""))
