"""The verdict on an answer: a comparison with the reference that evaluates neither."""

from __future__ import annotations

from enum import StrEnum

from shared.domain.text import as_number


class Verdict(StrEnum):
    """How an answer compares with the reference."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    NO_ANSWER = "no_answer"
    """The solution has no answer, or the problem ended without a solution."""
    UNVERIFIED = "unverified"
    """There is no reference, or a plain comparison cannot decide."""


def verdict_of(answer: str | None, reference: str | None) -> Verdict:
    """Compare an answer with the reference without evaluating either.

    Equal texts and equal plain numbers are correct. Different plain numbers are incorrect. Anything else is unverified.
    """
    if reference is None:
        return Verdict.UNVERIFIED
    if answer is None:
        return Verdict.NO_ANSWER
    if answer.strip() == reference.strip():
        return Verdict.CORRECT
    ours, theirs = as_number(answer.strip()), as_number(reference.strip())
    if ours is None or theirs is None:
        return Verdict.UNVERIFIED
    return Verdict.CORRECT if ours == theirs else Verdict.INCORRECT
