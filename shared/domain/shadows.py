"""Shadows: policies that decide on what a problem's policy decided, without any effect on the problem."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from shared.domain.decisions import Decision, PolicyVersion
from shared.domain.options import PolicyChoice


class Skip(StrEnum):
    """Why a shadow has no decision beside a decision of the policy."""

    NO_DRAFT = "no_draft"
    """The policy escalated the step before it was drafted; the shadow decides on drafts, or would have it drafted."""
    MODELS_DIFFER = "models_differ"
    """Another model than those that the shadow's version was fitted on did the work."""
    NO_TIME = "no_time"
    """The shadows before it had used up the time for this decision, or were still to be loaded."""
    UNUSABLE = "unusable"
    """The shadow cannot be read, built or loaded, or it needs what the policy's observations lack."""
    CRASHED = "crashed"
    """The shadow raised an error, or returned numbers that cannot be stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """A shadow as its submitter chose it."""

    policy: PolicyChoice
    defect: str | None = None
    """Why this version cannot read the choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Takes the place of a decision that a shadow did not take."""

    reason: Skip
    detail: str
    """Explanation in one sentence, without any text of the problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowRecord:
    """What one shadow decided beside one decision of the policy."""

    number: int
    """Number of the policy's decision within the problem."""
    shadow: int
    """Place of the shadow among the problem's shadows, from 0."""
    policy: PolicyVersion
    """The shadow's version; its digest is empty if the shadow is unusable."""
    outcome: Decision | Skipped
    agrees: bool | None
    """Whether the shadow chose the action that was taken; `None` if it was skipped."""
    decided_at: datetime
    """Time of the policy's decision."""
