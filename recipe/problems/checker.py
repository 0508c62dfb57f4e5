"""Labels each step of any solution, from the question alone."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from recipe.problems.story import parse
from shared.domain.text import split_step


class Label(StrEnum):
    """Label of a step."""

    RIGHT = "right"
    FIRST_ERROR = "first_error"
    WRONG = "wrong"
    """The step follows an error, so it solves another problem, whatever its text."""


def label(question: str, steps: Sequence[str]) -> list[Label]:
    """Label steps: each is right as long as all steps up to it equal the solution exactly.

    Raises:
        NotAProblem: The generator cannot have written the question.
    """
    expected = parse(question).steps
    right = first_error(expected, steps)
    return [
        Label.RIGHT if index < right else Label.FIRST_ERROR if index == right else Label.WRONG
        for index in range(len(steps))
    ]


def first_error(expected: Sequence[str], steps: Sequence[str]) -> int:
    """Return the index of the first step that differs from the expected one; the number of steps if none does."""
    for index, step in enumerate(steps):
        if index >= len(expected) or step != expected[index]:
            return index
    return len(steps)


def is_solved(question: str, steps: Sequence[str]) -> bool:
    """Tell whether the steps are the whole solution."""
    return tuple(steps) == parse(question).steps


def steps_of(text: str) -> list[str]:
    """Split the text of a solution at its blank lines."""
    steps, rest = [], text
    while (cut := split_step(rest)) is not None:
        step, rest = cut
        steps.append(step)
    return [step for step in (*steps, rest.strip()) if step]
