"""The model that TRIM-POMDP plans with: the accuracy of both models, the length of solutions, and the PRM's errors."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Final

import numpy as np

from shared.domain.roles import Author
from shared.policies.artefact import Artefact, BadArtefact, Floats
from shared.policies.pomdp.belief import Belief, Likelihood

BINS: Final = 20
"""Number of bins on each axis of an observation, as in the released code."""

STATES: Final = len(Belief._fields)

MAX_HORIZON: Final = 1000
"""Maximum number of steps that a model tells apart. A problem has far fewer, and planning takes time for each."""

MAX_TOKENS: Final = 1e9
"""Maximum mean number of tokens of a step; with it, prices of whole solutions are finite."""

LEAST: Final = 1e-12
"""Least probability of an observation. Beliefs are divided by it: far smaller numbers would round to 0."""

TOLERANCE: Final = 1e-6
"""Rounding error allowed in sums of probabilities."""


@dataclass(frozen=True, eq=False)
class Model:
    """The model of one pair of small and large model with one PRM. Its fields are the arrays of an artefact."""

    small_accuracy: float
    """Probability that a draft after right steps is right, unless it finishes the solution (p_w in the TRIM paper)."""
    final_accuracy: float
    """The same for a draft that finishes the solution; the paper has one number for both."""
    rewrite_accuracy: float
    """Probability that a large step in place of a draft is right, after right steps (p_s)."""
    last: Floats
    """Hazard by index: probability that a step is the last of its solution, given that none before it was. The final
    entry is 1 and covers all later steps too. Entry k is h(k + 1) of the paper, which counts steps from 1."""
    small_tokens: Floats
    """Mean tokens of a draft, by index."""
    large_tokens: Floats
    """Mean tokens of a large step, by index."""
    rewrite_tokens: Floats
    """Expected tokens of a large step in place of a draft, as a line over the draft's tokens: intercept and slope."""
    edges: Floats
    """Borders of the bins of a score, in rising order from 0 to 1: shape (21,)."""
    observed: Floats
    """Probability of each bin of (least earlier score, score) in each hidden state: shape (3, 20, 20). Before the first
    step the least score is 1."""

    @classmethod
    def read(cls, artefact: Artefact) -> Model:
        """Read the model in an artefact.

        Raises:
            BadArtefact: An array is missing or misshapen, or holds numbers that cannot be what it should hold.
        """
        last = artefact.array("last", -1)
        model = cls(
            small_accuracy=float(artefact.array("small_accuracy")),
            final_accuracy=float(artefact.array("final_accuracy")),
            rewrite_accuracy=float(artefact.array("rewrite_accuracy")),
            last=last,
            small_tokens=artefact.array("small_tokens", len(last)),
            large_tokens=artefact.array("large_tokens", len(last)),
            rewrite_tokens=artefact.array("rewrite_tokens", 2),
            edges=artefact.array("edges", BINS + 1),
            observed=artefact.array("observed", STATES, BINS, BINS),
        )
        for name, holds, rule in model._rules():
            if not holds:
                raise BadArtefact(f"The artefact of {artefact.card.policy!r}: {name!r} {rule}; fit it again.")
        return model

    def arrays(self) -> dict[str, Floats]:
        """Return the arrays of an artefact that holds this model."""
        return {each.name: np.asarray(getattr(self, each.name), dtype=np.float64) for each in fields(self)}

    def _rules(self) -> Iterator[tuple[str, bool, str]]:
        """Yield what must hold: the array's name, whether it holds, and the rule. Each relies on those before it."""
        for name in ("small_accuracy", "final_accuracy", "rewrite_accuracy"):
            yield name, 0 <= getattr(self, name) <= 1, "should be a probability"
        yield "last", bool(((self.last >= 0) & (self.last <= 1)).all()), "should hold probabilities"
        yield "last", self.horizon <= MAX_HORIZON, f"should hold at most {MAX_HORIZON} numbers"
        yield "last", self.last[-1:].tolist() == [1.0], "should end with 1"
        for name in ("small_tokens", "large_tokens"):
            yield name, _are_tokens(getattr(self, name)), f"should hold numbers above 0, at most {MAX_TOKENS:g}"
        rule = f"should hold numbers from 0 to {MAX_TOKENS:g}, not both 0"
        yield "rewrite_tokens", _is_line(self.rewrite_tokens), rule
        yield "edges", self.edges[0] == 0 and self.edges[-1] == 1, "should begin with 0 and end with 1"
        yield "edges", bool((self.edges[1:] > self.edges[:-1]).all()), "should rise"
        are_probabilities = bool(((self.observed >= LEAST) & (self.observed <= 1)).all())
        yield "observed", are_probabilities, f"should hold probabilities of at least {LEAST:g}"
        masses = self.observed.sum(axis=(1, 2))
        yield "observed", bool((np.abs(masses - 1) <= TOLERANCE).all()), "should integrate to 1 in each state"

    @property
    def horizon(self) -> int:
        """Number of steps that the model tells apart."""
        return len(self.last)

    def place(self, step: int) -> int:
        """Return a step's place in arrays by index: steps beyond the horizon share the last one."""
        return min(step, self.horizon - 1)

    def accuracy(self, author: Author) -> float:
        """Return the probability that an author's step, which finishes nothing, is right after right steps."""
        return self.small_accuracy if author is Author.SMALL else self.rewrite_accuracy

    def draft_accuracy(self, *, is_final: bool) -> float:
        """Return the probability that a draft is right after right steps."""
        return self.final_accuracy if is_final else self.small_accuracy

    def bin_of(self, score: float) -> int:
        """Return the bin of a score."""
        return bisect_right(self._inner_edges, score)

    def rewritten(self, step: int, draft_tokens: int | None) -> float:
        """Return the expected tokens of a large step in place of a draft; by its index if the draft's are not known."""
        if draft_tokens is None:
            return float(self.large_tokens[self.place(step)])
        intercept, slope = self.rewrite_tokens.tolist()
        return float(intercept + slope * draft_tokens)

    @cached_property
    def scored(self) -> Floats:
        """Probability of each bin of the score alone in each hidden state: shape (3, 20)."""
        return np.asarray(self.observed.sum(axis=1))

    def likelihood(self, score: float) -> Likelihood[float]:
        """Return the likelihood of a score alone."""
        return self._by_score[self.bin_of(score)]

    def joint_likelihood(self, least_before: float, score: float) -> Likelihood[float]:
        """Return the likelihood of a score together with the least one before it."""
        return self._by_both[self.bin_of(least_before)][self.bin_of(score)]

    # Plain floats, because a decision reads single ones: indexing an array takes longer than the arithmetic.

    @cached_property
    def _inner_edges(self) -> tuple[float, ...]:
        return tuple(self.edges[1:-1].tolist())

    @cached_property
    def _by_score(self) -> tuple[Likelihood[float], ...]:
        return tuple(Likelihood(*cell) for cell in self.scored.T.tolist())

    @cached_property
    def _by_both(self) -> tuple[tuple[Likelihood[float], ...], ...]:
        return tuple(tuple(Likelihood(*cell) for cell in row) for row in self.observed.transpose(1, 2, 0).tolist())


def _are_tokens(means: Floats) -> bool:
    return bool(((means > 0) & (means <= MAX_TOKENS)).all())


def _is_line(line: Floats) -> bool:
    return bool(((line >= 0) & (line <= MAX_TOKENS)).all() and line.any())
