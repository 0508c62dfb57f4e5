"""Steps that are thoughts: paragraphs of what a model thinks aloud before it answers.

A thought is marked in its own text, so that every reader of a solution knows it without the steps around it: it begins
with `<think>`, and ends with `</think>` if the thinking ends with it. No answer is read from a thought.
"""

from __future__ import annotations

OPENS = "<think>"
CLOSES = "</think>"


def is_thought(text: str) -> bool:
    """Tell whether a step is a thought."""
    return text.startswith(OPENS)


def closes_thinking(text: str) -> bool:
    """Tell whether a step is the last thought, after which the model answers."""
    return is_thought(text) and text.endswith(CLOSES)


def as_thought(text: str, *, is_last: bool) -> str:
    """Mark a paragraph as a thought."""
    return f"{OPENS}\n{text}\n{CLOSES}" if is_last else f"{OPENS}\n{text}"


def without_mark(text: str) -> str:
    """Return the paragraph that a thought is; other steps are returned unchanged."""
    return text.removeprefix(OPENS).removesuffix(CLOSES).strip() if is_thought(text) else text
