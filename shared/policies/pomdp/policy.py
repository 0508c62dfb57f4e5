"""The policy `pomdp`: escalates where the large model's step is worth its tokens, all later decisions considered."""

from __future__ import annotations

from itertools import repeat
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, PrivateAttr

from shared.domain.decisions import Action, Decision, Observation
from shared.domain.options import Plan
from shared.domain.roles import Author
from shared.policies.artefact import Artefact
from shared.policies.policy import FittedPolicy
from shared.policies.pomdp.belief import Belief, after_seeing, before_seeing, filtered
from shared.policies.pomdp.model import STATES, Model
from shared.policies.pomdp.planning import Prices, Values, compute_values

MAX_PRICE: Final = 1e6
"""Maximum price of a token. A price of 1 already equals the worth of a solution."""


class Pomdp(FittedPolicy):
    """Escalate a draft if that raises the chance of a right answer by more than the large model's tokens cost.

    It plans ahead with a model of how both models and the PRM err (TRIM-POMDP in the TRIM paper).
    """

    name: ClassVar[str] = "pomdp"

    large_token_price: Annotated[
        float,
        Field(ge=0, le=MAX_PRICE, description="Price of a token of the large model; a right solution is worth 1."),
    ] = 8e-4
    draft_token_price: Annotated[
        float,
        Field(
            ge=0,
            le=MAX_PRICE,
            description="Price of a token of a draft, its scoring included; above 0, drafts may be skipped.",
        ),
    ] = 0.0
    belief: Annotated[
        Literal["filter", "memoryless"],
        Field(
            description="Evidence that it uses: all scores and authors so far (`filter`), or the draft's score and the"
            " least earlier one (`memoryless`, as in the TRIM paper)."
        ),
    ] = "filter"

    _values: Values | None = PrivateAttr(default=None)

    @property
    def plan(self) -> Plan:
        """All models. Drafts are skipped only if they have a price: without one each is worth drafting."""
        return Plan(skips_drafts=self.draft_token_price > 0)

    def _prepare(self, artefact: Artefact) -> None:
        model = Model.read(artefact)
        # The values expect the observations that the belief will be updated with, and no others.
        seen = model.scored if self.belief == "filter" else model.observed.reshape(STATES, -1)
        prices = Prices(large_token=self.large_token_price, draft_token=self.draft_token_price)
        self._values = compute_values(model, seen, prices)

    def decide(self, observation: Observation) -> Decision:
        """Escalate if the gain in value is above the price of a large step."""
        assert self._values is not None, "only a fitted policy decides"
        belief = self._belief(self._values.model, observation)
        accepted, escalated = self._values.compare(belief, step=observation.step, is_final=observation.is_final)
        price = self._values.rewrite_price(observation.step, observation.draft_tokens)
        gain = escalated - accepted
        return Decision(
            action=Action.ESCALATE if gain > price else Action.ACCEPT,
            reason="gain_above_price" if gain > price else "gain_at_most_price",
            value=float(gain),
            compared_with=price,
            numbers={**belief._asdict(), "value_accepted": float(accepted), "value_escalated": float(escalated)},
        )

    def before_draft(self, observation: Observation) -> Decision | None:
        """Decide whether the large model should write the next step at once, before anything is drafted.

        Args:
            observation: As for `decide`, of the step that is to be written: without score and tokens of a draft.

        Returns:
            The decision to escalate, or `None` if the small model should draft as usual.
        """
        if not self.plan.skips_drafts:
            return None
        assert self._values is not None, "only a fitted policy decides"
        right = _prefix_right(self._values.model, observation)
        drafted, at_once = self._values.compare_drafting(right, step=observation.step)
        draft_price = self._values.draft_price(observation.step)
        worth = drafted - (at_once - self._values.large_price(observation.step))
        if worth >= draft_price:
            return None
        return Decision(
            action=Action.ESCALATE,
            reason="draft_below_price",
            value=float(worth),
            compared_with=draft_price,
            numbers={"prefix_right": right, "value_drafted": float(drafted), "value_at_once": float(at_once)},
        )

    def _belief(self, model: Model, observation: Observation) -> Belief[float]:
        """Return the belief on a draft. A draft without a score is no evidence."""
        score = observation.score
        if self.belief == "filter":
            accuracy = model.draft_accuracy(is_final=observation.is_final)
            belief = before_seeing(_prefix_right(model, observation), accuracy)
            return belief if score is None else after_seeing(model.likelihood(score), belief)
        belief = Belief(*[1 / STATES] * STATES)
        if score is None:
            return belief
        return after_seeing(model.joint_likelihood(observation.min_previous, score), belief)


def _prefix_right(model: Model, observation: Observation) -> float:
    """Return the probability that all accepted steps are right."""
    authors = observation.previous_authors or repeat(Author.SMALL)
    steps = zip(authors, observation.previous_scores, strict=False)
    return filtered(
        1.0, ((model.accuracy(author), None if score is None else model.likelihood(score)) for author, score in steps)
    )
