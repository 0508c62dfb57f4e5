"""The record of a problem: its steps and the decisions on them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pydantic import AwareDatetime

from trim_client.models.base import Model
from trim_client.models.values import Action, Author, DecidedBy, Finish, Reason, Skip


class Step(Model):
    """A step of the solution, with its place in it."""

    step: int
    """Index of the step, from 0."""
    author: Author
    text: str
    finish: Finish
    """Why the model stopped writing the step."""
    tokens: int
    estimated_tokens: int = 0
    score: float | None
    """PRM score, from 0 to 1; `None` if there is none (yet)."""
    model: str
    worker: str
    waited_ms: float
    worked_ms: float
    accepted_at: AwareDatetime


class Draft(Model):
    """A step as the small model drafted it."""

    id: UUID
    prefix_digest: str
    text: str | None
    """Text of the draft; `None` after an erasure."""
    finish: Finish
    tokens: int
    estimated_tokens: int = 0
    prompt_tokens: int
    cached_tokens: int
    model: str
    worker: str
    waited_ms: float
    worked_ms: float


class Scoring(Model):
    """A call of the PRM."""

    tokens: int
    estimated_tokens: int = 0
    model: str
    worker: str
    waited_ms: float
    worked_ms: float


class DecidingPolicy(Model):
    """Version of the policy in force when a decision was taken."""

    name: str
    revision: int
    parameters_digest: str
    version: int | None


class Observation(Model):
    """Everything that the policy saw."""

    step: int
    score: float | None
    previous_scores: list[float | None]
    previous_authors: list[Author]
    previous_tokens: list[int]
    following_scores: list[float | None]
    draft_tokens: int | None
    mean_logprob: float | None
    min_logprob: float | None
    thoughts: list[int]
    is_final: bool
    large_out: int
    seed: int
    question_digest: str


class ShadowDecision(Model):
    """What a shadow decided on what the policy saw. It had no effect."""

    shadow: int
    policy: DecidingPolicy
    action: Action | None
    reason: Reason | None
    value: float | None
    compared_with: float | None
    numbers: dict[str, float]
    propensity: float | None
    agrees: bool | None
    skipped: Skip | None
    detail: str | None


class Decision(Model):
    """A decision: what the policy saw, what was chosen and why, and the draft that was decided on."""

    number: int
    """Number of the decision within the problem, from 0."""
    step: int
    """Index of the step, from 0."""
    epoch: int
    decided_at: AwareDatetime
    decided_by: DecidedBy
    policy: DecidingPolicy
    observation: Observation
    action: Action
    reason: Reason
    value: float | None
    """Number that the decision rests on; `None` if there is none."""
    compared_with: float | None
    """Number that `value` was compared with; `None` if there is none."""
    numbers: dict[str, float]
    """Further numbers that the decision rests on, by name."""
    propensity: float
    draft: Draft | None
    scoring: Scoring | None
    shadows: list[ShadowDecision]


class AuditEntry(Model):
    """A decision beside the step that the solution now has at its place."""

    policy_parameters: dict[str, Any]
    policy_wrappers: dict[str, Any]
    decision: Decision
    accepted_step: Step | None
