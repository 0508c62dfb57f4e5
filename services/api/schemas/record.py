"""The record of a problem as the API returns it: its steps and the decisions on them."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from services.api.schemas.pages import Page
from services.api.schemas.values import Reason
from shared.domain.decisions import Action, DecidedBy
from shared.domain.drafts import Finish
from shared.domain.roles import Author
from shared.domain.shadows import Skip

StepIndex = Annotated[int, Field(description="Index of the step, from 0.")]
Model = Annotated[str, Field(description="Name and version of the model.")]
Worker = Annotated[str, Field(description="Name of the worker process.")]
WaitedMs = Annotated[
    float, Field(description="Milliseconds from the command's publication to its start; 0 for later steps of one call.")
]
WorkedMs = Annotated[float, Field(description="Milliseconds that the engine worked on it.")]


class Step(BaseModel):
    """A step of the solution, with its place in it."""

    model_config = ConfigDict(from_attributes=True)

    step: StepIndex
    author: Author = Field(description="Model that wrote the step.")
    text: str = Field(description="Text of the step; empty after an erasure.")
    finish: Finish = Field(description="Why the model stopped writing the step.")
    tokens: int = Field(description="Number of tokens of the step, as the engine counted them.")
    estimated_tokens: int = Field(
        0, description="Number of further tokens of the step, estimated because the model's server did not count them."
    )
    score: float | None = Field(description="PRM score of the step, from 0 to 1; null if there is none.")
    model: Model
    worker: Worker
    waited_ms: WaitedMs
    worked_ms: WorkedMs
    accepted_at: AwareDatetime = Field(description="Time at which the step was accepted.")


class Draft(BaseModel):
    """A step as the small model drafted it."""

    id: UUID = Field(description="Id of the draft.")
    prefix_digest: str = Field(description="Digest of the question and the steps that the draft continues.")
    text: str | None = Field(description="Text of the draft; null after an erasure.")
    finish: Finish = Field(description="Why the model stopped writing the draft.")
    tokens: int = Field(description="Number of tokens of the draft, as the engine counted them.")
    estimated_tokens: int = Field(
        0, description="Number of further tokens of the draft, estimated because the model's server did not count them."
    )
    prompt_tokens: int = Field(description="Number of input tokens of all requests for the draft.")
    cached_tokens: int = Field(description="Number of those input tokens that came from a cache.")
    model: Model
    worker: Worker
    waited_ms: WaitedMs
    worked_ms: WorkedMs


class Scoring(BaseModel):
    """A call of the PRM."""

    tokens: int = Field(description="Number of tokens that the PRM computed, as the engine counted them.")
    estimated_tokens: int = Field(
        0,
        description="Number of further tokens that the PRM computed, estimated because its server did not count them.",
    )
    model: Model
    worker: Worker
    waited_ms: WaitedMs
    worked_ms: WorkedMs


class DecidingPolicy(BaseModel):
    """Version of the policy in force when a decision was taken."""

    name: str = Field(description="Name of the policy.")
    revision: int = Field(description="Revision of the policy's code.")
    parameters_digest: str = Field(description="Digest of the policy's parameters, wrappers and artefact.")
    version: int | None = Field(description="Version of a fitted policy; null for a policy without versions.")


class Observation(BaseModel):
    """Everything that the policy saw."""

    step: StepIndex
    score: float | None = Field(description="PRM score of the draft; null if the policy reads no scores.")
    previous_scores: list[float | None] = Field(
        description="PRM scores of the accepted steps, one for each step; null where there was no usable score."
    )
    previous_authors: list[Author] = Field(
        description="Authors of the accepted steps, one for each step; empty in records of older versions."
    )
    previous_tokens: list[int] = Field(
        description="Numbers of tokens of the accepted steps, counted or estimated; empty in records of older versions."
    )
    following_scores: list[float | None] = Field(
        description="PRM scores of the drafts after this one, if the policy decides whole solutions; otherwise empty."
    )
    draft_tokens: int | None = Field(
        description="Number of tokens of the draft, counted or estimated; null if there was no draft."
    )
    mean_logprob: float | None = Field(
        description="Mean log-probability of the draft's tokens; null unless needed and reported."
    )
    min_logprob: float | None = Field(
        description="Log-probability of the draft's least likely token; null unless needed and reported."
    )
    thoughts: list[int] = Field(
        description="Indices of the steps that are thoughts, among the accepted ones, the draft and those after it."
    )
    is_final: bool = Field(description="Whether the draft, if accepted, ends the solution.")
    large_out: int = Field(
        description="Number of tokens of the solution that the large model had written, counted or estimated."
    )
    seed: int = Field(description="Seed of the problem.")
    question_digest: str = Field(description="Digest of the question.")


class ShadowDecision(BaseModel):
    """What a shadow decided on what the policy saw. It had no effect."""

    shadow: int = Field(description="Index of the shadow among the shadows of the problem, from 0.")
    policy: DecidingPolicy = Field(description="Version of the shadow's policy.")
    action: Action | None = Field(description="What the shadow would have done; null if it was skipped.")
    reason: Reason | None = Field(description="Short, stable name of the reason; null if the shadow was skipped.")
    value: float | None = Field(description="Number that the decision rests on; null if there is none.")
    compared_with: float | None = Field(description="Number that `value` was compared with; null if there is none.")
    numbers: dict[str, float] = Field(description="Further numbers that the decision rests on, by name.")
    propensity: float | None = Field(
        description="Probability that the shadow takes this action on what it saw; null if it was skipped."
    )
    agrees: bool | None = Field(description="Whether the action is the one that was taken; null if it was skipped.")
    skipped: Skip | None = Field(description="Why the shadow did not decide; null if it did.")
    detail: str | None = Field(description="Explanation in one sentence of why it did not; null if it did.")


class Decision(BaseModel):
    """A decision: what the policy saw, what was chosen and why, and the draft that was decided on."""

    number: int = Field(description="Number of the decision within the problem, from 0.")
    step: StepIndex
    epoch: int = Field(description="Epoch in which the decision was taken.")
    decided_at: AwareDatetime = Field(description="Time of the decision.")
    decided_by: DecidedBy = Field(
        description="Whether the policy decided, or a rule: nothing was to be judged, or the budget left no choice."
    )
    policy: DecidingPolicy = Field(description="Version of the policy in force.")
    observation: Observation = Field(description="Everything that the policy saw.")
    action: Action = Field(description="What happened to the draft.")
    reason: Reason = Field(description="Short, stable name of the reason, such as `score_below_threshold`.")
    value: float | None = Field(description="Number that the decision rests on; null if there is none.")
    compared_with: float | None = Field(description="Number that `value` was compared with; null if there is none.")
    numbers: dict[str, float] = Field(description="Further numbers that the decision rests on, by name.")
    propensity: float = Field(
        description="Probability that the policy takes this action on what it saw; below 1 only where it explores."
    )
    draft: Draft | None = Field(description="Draft that was decided on; null if there was none.")
    scoring: Scoring | None = Field(description="PRM call that scored the draft; null if there was none.")
    shadows: list[ShadowDecision] = Field(
        description="What the shadows decided on the same; empty for a problem without shadows, and for a rule."
    )


class AuditEntry(BaseModel):
    """A decision beside the step that the solution now has at its place."""

    policy_parameters: dict[str, Any] = Field(description="Parameters of the policy that the submitter chose.")
    policy_wrappers: dict[str, Any] = Field(description="Wrappers of the policy that the submitter chose.")
    decision: Decision = Field(description="The decision.")
    accepted_step: Step | None = Field(
        description="Step that the solution now has at the decision's index; null if there is none yet."
    )


class StepPage(Page[Step]):
    """One page of steps."""


class DecisionPage(Page[Decision]):
    """One page of decisions."""


class AuditPage(Page[AuditEntry]):
    """One page of the audit."""
