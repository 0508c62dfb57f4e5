"""Reading a solution's text: where a step ends, which steps hold no words, what the answer is.

The step separator is a blank line. It is never part of a step's text: joining puts it back.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from decimal import Decimal

SEPARATOR = "\n\n"
"""Ends a step. Not part of the step's text; joining puts it back."""

STEP_TAG = "<extra_0>"
"""Closes a step in the input of PRMs like Qwen's: the token at which they output the step's score."""

_WORD_CHARACTER = re.compile(r"[^\W_]")
"""A letter or a digit of any script."""

_FENCE = re.compile(r"^[^\S\n]*```", re.MULTILINE)
_ENVIRONMENT = re.compile(r"\\(begin|end)\{[^{}]*\}")
_BRACE = re.compile(r"\\boxed\{|[{}]")


def join_steps(steps: Sequence[str]) -> str:
    """Join the texts of steps into the text that a model continues, closing separator included.

    An empty sequence gives an empty string.
    """
    return "".join(step + SEPARATOR for step in steps)


def is_degenerate(text: str) -> bool:
    """Tell whether a step holds only white space and punctuation: it has no words."""
    return _WORD_CHARACTER.search(text) is None


def is_open(text: str) -> bool:
    """Tell whether text ends inside a code fence or a LaTeX environment, where a blank line ends no step."""
    if len(_FENCE.findall(text)) % 2:
        return True
    depth = 0
    for found in _ENVIRONMENT.finditer(text):
        depth = depth + 1 if found[1] == "begin" else max(0, depth - 1)
    return depth > 0


def split_step(text: str) -> tuple[str, str] | None:
    """Split generated text at its first step end.

    Args:
        text: All that was generated since the last step end. Blank lines before the first word are part of
            the (degenerate) step that they close.

    Returns:
        The step's text, stripped, and what follows the separator; `None` while the step is still open.
    """
    start = 0
    while (end := text.find(SEPARATOR, start)) >= 0:
        if not is_open(text[:end]):
            return text[:end].strip(), text[end:].lstrip("\n")
        start = end + 1
    return None


def boxed_answer(text: str) -> str | None:
    r"""Return the content of the last balanced `\boxed{...}`, stripped, or `None` if there is none."""
    opened: list[int | None] = []
    last, answer = 0, None
    for found in _BRACE.finditer(text):
        if found[0] != "}":
            opened.append(found.end() if found[0] != "{" else None)
        elif opened and (start := opened.pop()) is not None and start > last:
            last, answer = start, text[start : found.start()].strip()
    return answer


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
