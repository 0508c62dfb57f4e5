"""Baselines for every comparison: one model alone, and random escalation."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from shared.domain.decisions import Action, Decision, Observation
from shared.domain.options import Plan
from shared.policies.lots import lot_of
from shared.policies.policy import Policy


class SmallOnly(Policy):
    """Keep every draft: the small model alone, without the PRM."""

    name: ClassVar[str] = "small-only"

    @property
    def plan(self) -> Plan:
        """The small model only."""
        return Plan(scores=False, escalates=False)

    def decide(self, observation: Observation) -> Decision:  # noqa: ARG002 - it needs no observation
        """Accept."""
        return Decision(action=Action.ACCEPT, reason="small_only")


class LargeOnly(Policy):
    """Write every step with the large model, without drafts."""

    name: ClassVar[str] = "large-only"

    @property
    def plan(self) -> Plan:
        """The large model only."""
        return Plan(drafts=False, scores=False)

    def decide(self, observation: Observation) -> Decision:  # noqa: ARG002 - it needs no observation
        """Escalate."""
        return Decision(action=Action.ESCALATE, reason="large_only")


class Random(Policy):
    """Escalate each step with a fixed probability, regardless of its content and without the PRM.

    The lot of a step depends on the problem's seed, its question and the step's index alone. A replay draws the same
    lots, and problems with one seed draw different ones.
    """

    name: ClassVar[str] = "random"
    revision: ClassVar[int] = 2

    p: Annotated[float, Field(ge=0, le=1, description="Probability that a step is escalated.")] = 0.2

    @property
    def plan(self) -> Plan:
        """Drafts, but no scores."""
        return Plan(scores=False)

    def decide(self, observation: Observation) -> Decision:
        """Draw the step's lot."""
        lot = lot_of(observation)
        drawn = lot < self.p
        return Decision(
            action=Action.ESCALATE if drawn else Action.ACCEPT,
            reason="lot_drawn" if drawn else "lot_not_drawn",
            value=lot,
            compared_with=self.p,
        )
