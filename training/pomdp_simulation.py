"""Simulates problems as the model of the policy `pomdp` describes them, many at a time.

The score of a step depends on the step's hidden state alone, and the least earlier score is that of the scores drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.domain.roles import Author
from shared.policies.artefact import Floats
from shared.policies.pomdp.belief import Belief, Likelihood, after_seeing, before_seeing, filtered
from shared.policies.pomdp.model import BINS, STATES, Model
from shared.policies.pomdp.planning import Values
from training.pomdp import PREFIX_WRONG, RIGHT, STEP_WRONG
from training.traces import Trace

Bools = NDArray[np.bool_]
Bins = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What policies see of all problems at one step. Arrays have one entry, or column, for each problem."""

    step: int
    scored: Bins
    """Bin of the draft's score."""
    is_final: Bools
    previous_scored: Bins
    """Bins of the scores of the accepted steps: shape (step, problems)."""
    previous_by_large: Bools
    """Whether the large model wrote them: shape (step, problems)."""

    @property
    def least_before(self) -> Bins:
        """Bin of the least earlier score; the last one before the first step."""
        least: Bins = self.previous_scored.min(axis=0, initial=BINS - 1)
        return least


Choose = Callable[[Seen], Bools]
"""A policy: which problems to escalate."""


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """How the problems ended."""

    is_right: Bools
    large_tokens: Floats
    escalations: NDArray[np.int64]


def simulate(model: Model, choose: Choose, *, problems: int, seed: int) -> Outcomes:
    """Solve problems with a policy. The same seed draws the same steps and scores for every policy."""
    random = np.random.default_rng(seed)
    is_right, large_tokens = np.zeros(problems, dtype=bool), np.zeros(problems)
    escalations = np.zeros(problems, dtype=np.int64)
    running, prefix_right = np.arange(problems), np.ones(problems, dtype=bool)
    scored, by_large = np.empty((0, problems), dtype=np.intp), np.empty((0, problems), dtype=bool)
    for step in range(model.horizon):
        is_final = random.random(len(running)) < model.last[step]
        draft_right = random.random(len(running)) < _draft_accuracy(model, is_final)
        large_right = random.random(len(running)) < model.rewrite_accuracy
        draft_scored = _draw_scores(model, _states(prefix_right, draft_right), random)
        large_scored = _draw_scores(model, _states(prefix_right, large_right), random)
        seen = Seen(
            step=step, scored=draft_scored, is_final=is_final, previous_scored=scored, previous_by_large=by_large
        )
        escalated = choose(seen)
        escalations[running] += escalated
        large_tokens[running] += escalated * model.large_tokens[step]
        prefix_right &= np.where(escalated, large_right, draft_right)
        is_right[running[is_final]] = prefix_right[is_final]
        scored = np.vstack([scored, np.where(escalated, large_scored, draft_scored)])[:, ~is_final]
        by_large = np.vstack([by_large, escalated])[:, ~is_final]
        running, prefix_right = running[~is_final], prefix_right[~is_final]
    return Outcomes(is_right=is_right, large_tokens=large_tokens, escalations=escalations)


def threshold(model: Model, cut: float) -> Choose:
    """Return the policy `threshold`; a bin of scores is below the cut if its middle is."""
    middles = (model.edges[:-1] + model.edges[1:]) / 2
    return lambda seen: np.asarray(middles[seen.scored] < cut)


def pomdp(values: Values, *, memoryless: bool = False) -> Choose:
    """Return the policy `pomdp`."""
    model = values.model

    def choose(seen: Seen) -> Bools:
        belief = _memoryless(model, seen) if memoryless else _filter(model, seen)
        at_end, before = (values.compare(belief, step=seen.step, is_final=is_final) for is_final in (True, False))
        accepted, escalated = np.where(seen.is_final, at_end, before)
        return np.asarray(escalated - accepted > values.large_price(seen.step))

    return choose


def _filter(model: Model, seen: Seen) -> Belief[Floats]:
    accuracies = np.where(seen.previous_by_large, model.rewrite_accuracy, model.small_accuracy)
    steps = (
        (accuracy, Likelihood(*model.scored[:, bins]))
        for accuracy, bins in zip(accuracies, seen.previous_scored, strict=True)
    )
    right = filtered(np.ones(len(seen.scored)), steps)
    prior = before_seeing(right, _draft_accuracy(model, seen.is_final))
    return after_seeing(Likelihood(*model.scored[:, seen.scored]), prior)


def _memoryless(model: Model, seen: Seen) -> Belief[Floats]:
    uniform = Belief(*np.full((STATES, len(seen.scored)), 1 / STATES))
    return after_seeing(Likelihood(*model.observed[:, seen.least_before, seen.scored]), uniform)


def draw_traces(model: Model, author: Author, *, solutions: int, seed: int) -> list[Trace]:
    """Draw step-labelled solutions that one author writes alone."""
    random = np.random.default_rng(seed)
    mean_tokens = model.small_tokens if author is Author.SMALL else model.large_tokens
    ends = random.random((solutions, model.horizon)) < model.last
    accuracy = _draft_accuracy(model, ends) if author is Author.SMALL else model.rewrite_accuracy
    is_right = random.random((solutions, model.horizon)) < accuracy
    prefix_right = np.cumprod(np.hstack([np.ones((solutions, 1)), is_right[:, :-1]]), axis=1).astype(bool)
    states = _states(prefix_right, is_right)
    bins = _draw_scores(model, states, random)
    scores = model.edges[bins] + random.random(states.shape) * np.diff(model.edges)[bins]
    tokens = np.maximum(random.poisson(mean_tokens, states.shape), 1)
    traces = []
    for number, length in enumerate(ends.argmax(axis=1) + 1):
        errors = np.flatnonzero(states[number, :length] == STEP_WRONG)
        traces.append(
            Trace(
                question=f"Question {number}",
                scores=tuple(scores[number, :length].tolist()),
                tokens=tuple(tokens[number, :length].tolist()),
                authors=(author,) * int(length),
                first_error=int(errors[0]) if len(errors) else None,
            )
        )
    return traces


def _draft_accuracy(model: Model, is_final: Bools) -> Floats:
    """Return the accuracy of drafts, by whether they finish their solutions."""
    return np.where(is_final, model.final_accuracy, model.small_accuracy)


def _states(prefix_right: Bools, step_right: Bools) -> Bins:
    """Return the hidden states of steps, each a number in the order of `Belief`."""
    return np.where(prefix_right, np.where(step_right, RIGHT, STEP_WRONG), PREFIX_WRONG)


def _draw_scores(model: Model, states: Bins, random: np.random.Generator) -> Bins:
    """Draw the bins of the scores of steps."""
    up_to = model.scored.cumsum(axis=1)[states, :-1]
    drawn: Bins = (random.random(states.shape)[..., np.newaxis] > up_to).sum(axis=-1)
    return drawn
