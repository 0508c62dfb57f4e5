"""How a model says that a solution is complete, in the style `chat-next-step`: there, a message ends with each step."""

from __future__ import annotations

import re

DONE = "DONE"
"""The word with which the prompt tells a model to end a solution."""

_ONLY_DONE = re.compile(rf"[\W_]*{DONE}[\W_]*", re.IGNORECASE)
"""The word with nothing but marks around it, such as `**DONE.**`."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")

_COMPLETE = re.compile(
    r"\bfinal answer\W+is\b(?!\W+(?:obtained|found|given|computed|calculated|determined|the sum|the product)\b)"
    r"|\bfinal answer\W*[:=]"
    r"|\banswer\W+is\W*\d"
    r"|\b(?:solution|problem|calculation|proof)\b[^.]{0,20}\b(?:complete|completed|solved|finished|done)\W*$"
    r"|\bno (?:further|more|additional|other|next) steps?\b"
    r"|\bnothing\b[^.]{0,20}\bto (?:add|do|solve|compute|calculate|show)\b",
    re.IGNORECASE,
)
_NOT_YET = re.compile(r"\b(?:not|never|once|when|until|unless|before|if|whether|to)\b|n['’]t\b", re.IGNORECASE)
"""Words after which a sentence declares nothing complete."""


def without_done(reply: str) -> str | None:
    """Return a reply without its last line if that says `DONE`, or else `None`."""
    step, _, last = reply.rstrip().rpartition("\n")
    return step.strip() if _ONLY_DONE.fullmatch(last) else None


def says_complete(step: str) -> bool:
    """Tell whether the last sentence of a step says that the solution is complete, or what the final answer is."""
    *_, last = _SENTENCE_END.split(step.strip())
    found = _COMPLETE.search(last)
    return found is not None and _NOT_YET.search(last[: found.start()]) is None and not last.endswith("?")
