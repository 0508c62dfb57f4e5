"""Planning: the expected result of a problem from each step on, if every later decision is the best one.

After either action the future depends on one number x, the probability that all accepted steps are right. So the values
form one curve for each number k of accepted steps, and a backward recursion computes them; no solver is needed. With

    h_k, n_k, m_k   hazard, mean tokens of a large step and of a draft, at index k
    p_w, p_s        accuracy of a draft, which depends on whether it is final, and of a large step
    u, d            price of a large token and of a draft token
    b, Z            belief (b0, b1, b2) on the draft after an observation, and the observation's probability; both
                    with the p_w of the draft

the value C_k(x) of an unfinished solution with k accepted steps is the better of drafting (E) and writing the next step
with the large model at once (D):

    C_k(x) = max( E_k(x), D_k(x) )
    E_k(x) = sum over observations of Z ( h_k F_k(b) + (1 - h_k) V_k(b) ) - d m_k
    F_k(b) = max( b0, p_s (b0 + b2) - u n_k )                      the draft finishes the solution
    V_k(b) = max( C_k+1(b0), C_k+1(p_s (b0 + b2)) - u n_k )        it does not
    D_k(x) = h_k p_s x + (1 - h_k) C_k+1(p_s x) - u n_k

E is the recursion of the TRIM paper's model: its G_t is C_k with k = t + 1, which puts the hazard h(t + 2) at index k.
The paper has no D. A draft without a price never loses to it: E_k is at least the value of drafting and then always
escalating, and by Jensen's inequality that is at least D_k, because C is convex and the sum of Z (b0 + b2) is x. A
draft with a price is skipped where the choice that its observation leaves is worth less than that price.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from shared.policies.artefact import Floats
from shared.policies.pomdp.belief import Belief, Likelihood, Number, after_seeing, before_seeing, chance_of
from shared.policies.pomdp.model import Model

POINTS: Final = 201
"""Number of points of x at which the values are computed; between them they are interpolated."""

GRID: Final[Floats] = np.linspace(0.0, 1.0, POINTS)


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What tokens cost, in the unit of the result: 1 is a right solution."""

    large_token: float
    draft_token: float


@dataclass(frozen=True, eq=False)
class Values:
    """What every situation is worth under a model and prices."""

    model: Model
    prices: Prices
    unfinished: Floats
    """C_k on the grid: shape (horizon, 201)."""
    drafting: Floats
    """E_k on the grid: shape (horizon, 201)."""

    def ahead(self, accepted: int, right: Number) -> Number:
        """Return the value of an unfinished solution.

        Args:
            accepted: Number of accepted steps.
            right: Probability that all of them are right.
        """
        curve: Floats = self.unfinished[self.model.place(accepted)]
        return np.interp(right, GRID, curve)

    def compare(self, belief: Belief[Number], *, step: int, is_final: bool) -> tuple[Number, Number]:
        """Return the values of accepting a draft and of escalating it, the latter before its price."""
        replaced = self.model.rewrite_accuracy * (belief.right + belief.step_wrong)
        if is_final:
            return belief.right, replaced
        return self.ahead(step + 1, belief.right), self.ahead(step + 1, replaced)

    def compare_drafting(self, right: Number, *, step: int) -> tuple[Number, Number]:
        """Return the values of drafting a step and of writing it with the large model at once, before their prices."""
        place = self.model.place(step)
        curve: Floats = self.drafting[place]
        drafted = np.interp(right, GRID, curve) + self.draft_price(step)
        replaced = self.model.rewrite_accuracy * right
        last = float(self.model.last[place])
        return drafted, last * replaced + (1 - last) * self.ahead(step + 1, replaced)

    def large_price(self, step: int) -> float:
        """Return the price of a large step: of its expected tokens, which are the mean at its index."""
        return self.prices.large_token * float(self.model.large_tokens[self.model.place(step)])

    def rewrite_price(self, step: int, draft_tokens: int | None) -> float:
        """Return the price of a large step in place of a draft: of the tokens that the draft's lead to expect."""
        return self.prices.large_token * self.model.rewritten(step, draft_tokens)

    def draft_price(self, step: int) -> float:
        """Return the price of a draft: of its expected tokens, which are the mean at its index."""
        return self.prices.draft_token * float(self.model.small_tokens[self.model.place(step)])


def compute_values(model: Model, seen: Floats, prices: Prices) -> Values:
    """Compute the values, from the horizon back to the first step.

    Args:
        model: The model.
        seen: Probability of each observation that the belief will be updated with, in each hidden state: shape
            (3, observations).
        prices: What tokens cost.
    """
    values = Values(model, prices, np.zeros((model.horizon, POINTS)), np.zeros((model.horizon, POINTS)))
    # One row for each observation: beliefs rise along the grid, and numpy interpolates rising numbers much faster.
    likelihood = Likelihood(*seen[..., np.newaxis])
    priors = {is_final: before_seeing(GRID, model.draft_accuracy(is_final=is_final)) for is_final in (True, False)}
    after = {each: (chance_of(likelihood, prior), after_seeing(likelihood, prior)) for each, prior in priors.items()}

    def decided(step: int, *, is_final: bool) -> Floats:
        """Return the value of a draft that is about to be seen, at each x."""
        chance, belief = after[is_final]
        accepted, escalated = values.compare(belief, step=step, is_final=is_final)
        best: Floats = chance * np.maximum(accepted, escalated - values.large_price(step))
        return np.asarray(best.sum(axis=0))

    for step in reversed(range(model.horizon)):
        last = float(model.last[step])
        drafted = last * decided(step, is_final=True) + (1 - last) * decided(step, is_final=False)
        values.drafting[step] = drafted - values.draft_price(step)
        _, at_once = values.compare_drafting(GRID, step=step)
        values.unfinished[step] = np.maximum(values.drafting[step], at_once - values.large_price(step))
    return values
