"""Thresholds of policies: one for text, and one for thoughts."""

from __future__ import annotations

from abc import ABC
from typing import Annotated, Final

from pydantic import Field

from shared.domain.decisions import Action, Decision
from shared.policies.policy import Policy

THOUGHT: Final = Decision(action=Action.ACCEPT, reason="thought")
"""Decision on a thought without a threshold for thoughts. It rests on no number."""


class ThresholdPolicy(Policy, ABC):
    """A policy that compares a number of each draft with a threshold.

    Neither scores nor log-probabilities of thoughts are comparable with those of text, so thoughts have their own
    threshold. Without it a thought is accepted, unless the threshold for text is 0 or 1: these choose one model for
    every step, whatever its number.
    """

    threshold: float
    thought_threshold: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            description="Threshold for thoughts. Without it thoughts are accepted, unless `threshold` is 0 or 1.",
        ),
    ] = None

    @property
    def thresholds(self) -> tuple[float, float]:
        """Thresholds that may escalate: for text, and for thoughts."""
        return self.threshold, self.threshold if self.thought_threshold is None else self.thought_threshold

    def threshold_for(self, *, is_thought: bool) -> float | None:
        """Return the threshold for text or for thoughts; `None` if thoughts are accepted."""
        if is_thought and (self.thought_threshold is not None or 0 < self.threshold < 1):
            return self.thought_threshold
        return self.threshold
