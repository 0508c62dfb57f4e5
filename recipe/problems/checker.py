"""Labels each step of any solution, from the question alone."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from recipe.problems.story import parse
from shared.domain.text import split_step


class Label(StrEnum):
    """What a step is."""

    RIGHT = "right"
    FIRST_ERROR = "first_error"
    WRONG = "wrong"
    """It follows an error. Whatever it says, it solves another problem."""


def label(question: str, steps: Sequence[str]) -> list[Label]:
    """Label steps: those that equal the solution's are right, to the letter, up to the first that does not.

    Raises:
        NotAProblem: The question is not one that the generator can have written.
    """
    expected = parse(question).steps
    right = first_error(expected, steps)
    return [
        Label.RIGHT if index < right else Label.FIRST_ERROR if index == right else Label.WRONG
        for index in range(len(steps))
    ]


def first_error(expected: Sequence[str], steps: Sequence[str]) -> int:
    """Find the index of the first step that is not the expected one; the number of steps if there is none."""
    for index, step in enumerate(steps):
        if index >= len(expected) or step != expected[index]:
            return index
    return len(steps)


def is_solved(question: str, steps: Sequence[str]) -> bool:
    """Tell whether the steps are the whole solution."""
    return tuple(steps) == parse(question).steps


def steps_of(text: str) -> list[str]:
    """Cut the text of a solution at its blank lines."""
    steps, rest = [], text
    while (cut := split_step(rest)) is not None:
        step, rest = cut
        steps.append(step)
    return [step for step in (*steps, rest.strip()) if step]
