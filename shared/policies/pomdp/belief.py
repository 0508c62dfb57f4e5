"""Beliefs: how probable each hidden state is. The same arithmetic serves one problem (floats) and many (arrays)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

from shared.policies.artefact import Floats

Number = TypeVar("Number", float, Floats)


class Likelihood(NamedTuple, Generic[Number]):
    """Probability of an observation in each hidden state; `Belief` explains the states."""

    right: Number
    prefix_wrong: Number
    step_wrong: Number


class Belief(NamedTuple, Generic[Number]):
    """Probability of each hidden state of a step and the accepted steps before it; the three add up to 1."""

    right: Number
    """All steps are right (S0 in the TRIM paper)."""
    prefix_wrong: Number
    """An earlier step is wrong; no later step repairs that (S1)."""
    step_wrong: Number
    """Only the step itself is wrong; while it is a draft, the large model may replace it (S2)."""


def before_seeing(prefix_right: Number, accuracy: float | Number) -> Belief[Number]:
    """Return the belief on a new step before anything is known of it.

    Args:
        prefix_right: Probability that all steps before it are right.
        accuracy: Probability that its author writes a right step after right ones.
    """
    return Belief(accuracy * prefix_right, 1 - prefix_right, (1 - accuracy) * prefix_right)


def chance_of(seen: Likelihood[Number], belief: Belief[Number]) -> Number:
    """Return the probability of an observation under a belief."""
    return belief.right * seen.right + belief.prefix_wrong * seen.prefix_wrong + belief.step_wrong * seen.step_wrong


def after_seeing(seen: Likelihood[Number], belief: Belief[Number]) -> Belief[Number]:
    """Return the belief after an observation of a probability above 0, by Bayes' rule."""
    chance = chance_of(seen, belief)
    return Belief(
        belief.right * seen.right / chance,
        belief.prefix_wrong * seen.prefix_wrong / chance,
        belief.step_wrong * seen.step_wrong / chance,
    )


def filtered(no_step: Number, steps: Iterable[tuple[float | Number, Likelihood[Number] | None]]) -> Number:
    """Return the probability that all accepted steps are right: a Bayes filter over their scores.

    It leaves out the scores of drafts that the large model has replaced: observations do not hold them, and they would
    change little (docs/decisions/0018-the-pomdp-needs-no-solver.md).

    Args:
        no_step: The probability without any step: 1, or an array of ones.
        steps: Accuracy of each step's author, and the likelihood of the step's score; `None` if it has no score.
    """
    right = no_step
    for accuracy, seen in steps:
        belief = before_seeing(right, accuracy)
        right = belief.right if seen is None else belief.right * seen.right / chance_of(seen, belief)
    return right
