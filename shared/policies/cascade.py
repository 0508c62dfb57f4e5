"""The query-level baseline: one decision for the whole solution, in place of one for each step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from shared.domain.decisions import Action, Decision, Observation
from shared.domain.options import Plan
from shared.policies.thresholds import THOUGHT, ThresholdPolicy


class Cascade(ThresholdPolicy):
    """Let the small model solve the problem, and the large model solve it again if the least PRM score is too low.

    This is the cascade of AutoMix (arXiv 2310.12963) with a PRM as the verifier. The comparison is strict. A threshold
    of 0 never escalates and 1 always does; neither calls the PRM. Thoughts are compared with `thought_threshold` only.
    """

    name: ClassVar[str] = "cascade"
    revision: ClassVar[int] = 2

    threshold: Annotated[float, Field(ge=0, le=1, description="Escalate below this least PRM score.")] = 0.5

    @property
    def plan(self) -> Plan:
        """Whole solutions, less the models that cannot change the outcome."""
        inside = any(0 < each < 1 for each in self.thresholds)
        return Plan(
            drafts=min(self.thresholds) < 1,
            scores=inside,
            escalates=max(self.thresholds) > 0,
            takes_over=inside,
            decides_whole=inside,
        )

    def decide(self, observation: Observation) -> Decision:
        """Compare the least known score of the solution with its threshold; without a score only 0 and 1 can decide.

        The least one is that with the least distance to its threshold, which is another one for thoughts.
        """
        compared = list(self._compared(observation))
        if not compared:
            threshold = self.threshold_for(is_thought=observation.is_thought)
            if threshold is None:
                return THOUGHT
            action = Action.ACCEPT if threshold == 0 else Action.ESCALATE
            return Decision(action=action, reason="threshold_without_score", compared_with=threshold)
        least, threshold = min(compared, key=lambda each: (each[0] - each[1], -each[1], each[0]))
        below = least < threshold or threshold == 1
        return Decision(
            action=Action.ESCALATE if below else Action.ACCEPT,
            reason="least_score_below_threshold" if below else "least_score_at_least_threshold",
            value=least,
            compared_with=threshold,
        )

    def _compared(self, observation: Observation) -> Iterator[tuple[float, float]]:
        """Yield the known scores of the solution, each with its threshold."""
        scores = (*observation.previous_scores, observation.score, *observation.following_scores)
        for index, score in enumerate(scores):
            threshold = self.threshold_for(is_thought=index in observation.thoughts)
            if score is not None and threshold is not None:
                yield score, threshold
