"""The query-level baseline: one decision for the whole solution, in place of one for each step."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from shared.domain.decisions import Action, Decision, Observation
from shared.domain.options import Plan
from shared.policies.policy import Policy


class Cascade(Policy):
    """Let the small model solve the problem, and the large model solve it again if the least PRM score is too low.

    This is the cascade of AutoMix (arXiv 2310.12963) with a PRM as the verifier. The comparison is strict. A threshold
    of 0 never escalates and 1 always does; neither calls the PRM.
    """

    name: ClassVar[str] = "cascade"

    threshold: Annotated[float, Field(ge=0, le=1, description="Escalate below this least PRM score.")] = 0.5

    @property
    def plan(self) -> Plan:
        """Whole solutions, less the models that cannot change the outcome."""
        inside = 0 < self.threshold < 1
        return Plan(
            drafts=self.threshold < 1,
            scores=inside,
            escalates=self.threshold > 0,
            takes_over=inside,
            decides_whole=inside,
        )

    def decide(self, observation: Observation) -> Decision:
        """Compare the least known score of the solution with the threshold; without a score only 0 and 1 can decide."""
        scores = (*observation.previous_scores, observation.score, *observation.following_scores)
        least = min((score for score in scores if score is not None), default=None)
        if least is None:
            action = Action.ACCEPT if self.threshold == 0 else Action.ESCALATE
            return Decision(action=action, reason="threshold_without_score", compared_with=self.threshold)
        below = least < self.threshold or self.threshold == 1
        return Decision(
            action=Action.ESCALATE if below else Action.ACCEPT,
            reason="least_score_below_threshold" if below else "least_score_at_least_threshold",
            value=least,
            compared_with=self.threshold,
        )
