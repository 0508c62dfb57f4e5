"""Where a solution ends: the one rule of the state machine, of every engine, of the simulation and of training."""

from __future__ import annotations

from collections.abc import Sequence

from shared.domain.answers import boxed_answer, states_answer
from shared.domain.drafts import Finish
from shared.domain.status import StopReason
from shared.domain.text import is_degenerate
from shared.domain.thoughts import is_thought
from shared.domain.worded_answers import worded_answer

LONGEST_CYCLE = 4
"""Maximum number of steps that are recognised as a cycle when they are written again."""

REACH = 2 * LONGEST_CYCLE - 1
"""Number of steps before a step that decide whether it ends the solution; earlier ones need not be passed."""

_BEGINNING = 80
"""Number of characters of two steps that are compared before the whole."""


def find_ending(text: str, *, finish: Finish, before: Sequence[str], question: str) -> StopReason | None:
    """Return why a step ends its solution, or `None` if the solution goes on.

    A step with an answer box that it does not call the answer may hold a partial result, so the model is asked for
    another step. A box in a thought is never an answer. If it has no words to add, that ends the solution.

    Args:
        text: The step's text.
        finish: Why the model stopped writing it.
        before: Texts of the steps before it, at least the last `REACH` of them.
        question: The problem's question, whose own boxes are no answers.
    """
    if finish is Finish.ENDED:
        return StopReason.FINAL_ANSWER
    if is_degenerate(text):
        return StopReason.FINAL_ANSWER if follows_answer(before, question) else StopReason.DEGENERATE
    # All boxes have it in their names; few steps do.
    if "box" in text and not is_thought(text) and states_answer(text, question=question):
        return StopReason.FINAL_ANSWER
    if finish is Finish.LENGTH:
        return StopReason.STEP_CUT
    return StopReason.REPEATED if _repeats(text, before) else None


def follows_answer(before: Sequence[str], question: str) -> bool:
    """Tell whether the last of some steps has an answer box, so that a model without words after it has finished."""
    if not before or is_thought(before[-1]):
        return False
    return boxed_answer(before[-1], question=question) is not None


def final_answer(steps: Sequence[str], *, question: str, is_cut: bool = False) -> str | None:
    """Return the answer of a solution, or `None` if it states none.

    A box is read before words: the box of the last step that has one. Without any box, the answer that the last step
    ends by stating in words (see `worded_answers`). Each step is read by itself, so that a code fence that an early
    step leaves open hides no later box. No answer is read from a thought.

    Args:
        steps: Texts of the steps.
        question: The problem's question, whose own boxes are no answers.
        is_cut: Whether the last step was cut, so that a number at its end may lack digits.
    """
    for text in reversed(steps):
        if not is_thought(text) and (box := boxed_answer(text, question=question)) is not None:
            return box
    if not steps or is_cut or is_thought(steps[-1]):
        return None
    return worded_answer(steps[-1])


def _repeats(text: str, before: Sequence[str]) -> bool:
    """Tell whether a step equals the one before it, or completes a cycle of up to `LONGEST_CYCLE` steps once more."""
    written = [*before[-REACH:], text]
    for length in range(1, LONGEST_CYCLE + 1):
        cycle, earlier = written[-length:], written[-2 * length : -length]
        # The newest step is compared first: it nearly always differs.
        if len(earlier) == length and all(map(_is_same, reversed(cycle), reversed(earlier))):
            return True
    return False


def _is_same(one: str, other: str) -> bool:
    """Tell whether two steps have the same words, whatever their case and white space."""
    if one == other:
        return True
    # Steps that differ nearly always do so soon, and this runs several times for each step.
    begin, its_begin = _letters(one[:_BEGINNING]), _letters(other[:_BEGINNING])
    shared = min(len(begin), len(its_begin))
    return begin[:shared] == its_begin[:shared] and one.casefold().split() == other.casefold().split()


def _letters(text: str) -> str:
    return "".join(text.casefold().split())
