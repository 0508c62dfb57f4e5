"""The threshold policy: escalates drafts with a low PRM score."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from shared.domain.decisions import Action, Decision, Observation
from shared.domain.options import Plan
from shared.policies.thresholds import THOUGHT, ThresholdPolicy


class Threshold(ThresholdPolicy):
    """Escalate a draft whose PRM score is below a threshold, strictly (TRIM-Thr, section 4 of the TRIM paper).

    A threshold of 0 never escalates and 1 always does. Neither calls the PRM; with 1 nothing is drafted. A thought is
    compared with `thought_threshold` only.
    """

    name: ClassVar[str] = "threshold"
    revision: ClassVar[int] = 2

    threshold: Annotated[float, Field(ge=0, le=1, description="Escalate below this PRM score.")] = 0.5

    @property
    def plan(self) -> Plan:
        """All models, less those that cannot change the outcome."""
        scores = any(0 < each < 1 for each in self.thresholds)
        return Plan(drafts=min(self.thresholds) < 1, scores=scores, escalates=max(self.thresholds) > 0)

    def decide(self, observation: Observation) -> Decision:
        """Compare the draft's score with the threshold; without a score, only 0 and 1 can decide."""
        threshold = self.threshold_for(is_thought=observation.is_thought)
        if threshold is None:
            return THOUGHT
        if observation.score is None:
            action = Action.ACCEPT if threshold == 0 else Action.ESCALATE
            return Decision(action=action, reason="threshold_without_score", compared_with=threshold)
        below = observation.score < threshold or threshold == 1
        return Decision(
            action=Action.ESCALATE if below else Action.ACCEPT,
            reason="score_below_threshold" if below else "score_at_least_threshold",
            value=observation.score,
            compared_with=threshold,
        )
