"""The confidence policy: escalates drafts that the small model itself found unlikely. It needs no PRM."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shared.domain.decisions import Action, Decision, Observation
from shared.domain.options import Plan
from shared.policies.thresholds import THOUGHT, ThresholdPolicy


class Confidence(ThresholdPolicy):
    """Escalate a draft if the small model's confidence in it is below a threshold, strictly. Needs no PRM.

    The confidence is the probability that the small model gave to the draft's tokens: their geometric mean (`mean`), or
    that of the least likely one (`least`). Thresholds of the two are not comparable, nor are those of two models. A
    draft whose engine reports no log-probabilities is escalated. A thought is compared with `thought_threshold` only.
    """

    name: ClassVar[str] = "confidence"
    revision: ClassVar[int] = 2

    of: Annotated[
        Literal["mean", "least"],
        Field(description="Probability to compare: the geometric mean of the tokens', or the least of them."),
    ] = "mean"
    threshold: Annotated[float, Field(gt=0, le=1, description="Escalate below this probability.")] = 0.98

    @property
    def plan(self) -> Plan:
        """Drafts with log-probabilities, but no scores."""
        return Plan(scores=False, confidence=True)

    def decide(self, observation: Observation) -> Decision:
        """Compare the draft's probability with the threshold."""
        threshold = self.threshold_for(is_thought=observation.is_thought)
        if threshold is None:
            return THOUGHT
        logprob = observation.mean_logprob if self.of == "mean" else observation.min_logprob
        if logprob is None:
            return Decision(action=Action.ESCALATE, reason="no_confidence", compared_with=threshold)
        # An engine that rounds may report a little more than 0; far above, `exp` would overflow.
        probability = math.exp(min(logprob, 0.0))
        below = probability < threshold
        return Decision(
            action=Action.ESCALATE if below else Action.ACCEPT,
            reason="confidence_below_threshold" if below else "confidence_at_least_threshold",
            value=probability,
            compared_with=threshold,
        )
