"""What the API takes and returns. The field names are a contract with every client."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from shared.domain.options import Limits, Options, Sampling

MAX_SEED = 2**53
"""Largest seed: every JSON reader keeps integers up to here exact."""

MAX_LOOKAHEAD = 64
"""Largest lookahead that is a number; past it there is only `unlimited`."""

_LIMITS, _SAMPLING, _OPTIONS = Limits(), Sampling(), Options()


def _plain_text(text: str) -> str:
    if "\x00" in text:
        raise PydanticCustomError("nul", "It holds a NUL character, which the database cannot keep")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise PydanticCustomError("surrogate", "It holds half a surrogate pair, which is no character")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "It is empty")
    return text


def _number_or_unlimited(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    """Say in one sentence what a union says in one for each member."""
    try:
        return validate(value)
    except ValidationError as error:
        message = f'It must be a whole number from 0 to {MAX_LOOKAHEAD}, or "unlimited"'
        raise PydanticCustomError("lookahead", message) from error


Text = Annotated[str, AfterValidator(_plain_text)]

Lookahead = Annotated[
    Annotated[int, Field(ge=0, le=MAX_LOOKAHEAD)] | Literal["unlimited"], WrapValidator(_number_or_unlimited)
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


class PolicyChoice(_Request):
    """Which policy decides; GET /v1/policies lists them."""

    name: str = Field("threshold", max_length=80)
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="What the policy takes; defaults for the rest."
    )


class LimitsChoice(_Request):
    """What bounds the work on a problem."""

    max_steps: int = Field(_LIMITS.max_steps, ge=1, le=200, description="Most steps of a solution.")
    max_step_tokens: int = Field(_LIMITS.max_step_tokens, ge=1, le=8192, description="A longer step is closed there.")
    max_tokens: int = Field(
        _LIMITS.max_tokens, ge=1, le=131_072, description="No step is begun once the solution holds this many."
    )


class SamplingChoice(_Request):
    """How tokens are drawn."""

    temperature: float = Field(_SAMPLING.temperature, ge=0, le=2, description="0 is greedy.")
    top_p: float = Field(_SAMPLING.top_p, gt=0, le=1)
    top_k: int = Field(_SAMPLING.top_k, ge=0, le=1000, description="0 is no limit.")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Drawn, and recorded, if it is not given.")


class Choices(_Request):
    """How a problem is to be solved."""

    policy: PolicyChoice = Field(default_factory=PolicyChoice)
    lookahead: Lookahead = Field(0, description="Steps that the small model may draft past the last accepted one.")
    limits: LimitsChoice = Field(default_factory=LimitsChoice)
    sampling: SamplingChoice = Field(default_factory=SamplingChoice)
    step_timeout_s: float = Field(
        _OPTIONS.step_timeout_s, ge=0.1, le=3600, description="Seconds until a step is asked for again."
    )
    max_attempts: int = Field(_OPTIONS.max_attempts, ge=1, le=20, description="How often a step is asked for.")
    deadline_s: float | None = Field(
        None, gt=0, le=30 * 86_400, description="Seconds from submission until the problem expires unsolved."
    )


class ProblemRequest(Choices):
    """One problem to solve."""

    question: Annotated[Text, AfterValidator(_not_blank)] = Field(description="The problem, in words.")
    reference: Annotated[Text, Field(max_length=1000)] | None = Field(
        None, description="The right answer, if it is known: the verdict compares with it."
    )


class BatchRequest(_Request):
    """Problems to solve together."""

    defaults: Choices = Field(default_factory=Choices, description="Applies where a problem says nothing itself.")
    problems: list[dict[str, Any]] = Field(min_length=1, description="Each as in POST /v1/problems.")


class Policy(BaseModel):
    """A policy as it was chosen."""

    name: str
    revision: int
    parameters: dict[str, Any]


class Failure(BaseModel):
    """Why a problem failed."""

    code: str
    detail: str


class Ledger(BaseModel):
    """Tokens and calls. Every step that a model finished is counted in exactly one place."""

    model_config = ConfigDict(from_attributes=True)

    small_kept: int = Field(description="Decoded by the small model, part of the solution.")
    small_discarded: int = Field(description="Decoded by the small model, replaced by a large step.")
    small_wasted: int = Field(description="Decoded by the small model for nothing: drafted ahead, or asked for again.")
    small_in: int = Field(description="Input of the small model that was computed.")
    large_out: int = Field(description="Decoded by the large model, part of the solution.")
    large_wasted: int = Field(description="Decoded by the large model for nothing.")
    large_in: int = Field(description="Input of the large model that was computed.")
    prm: int = Field(description="Tokens that the PRM computed.")
    small_calls: int
    large_calls: int
    prm_calls: int


class Problem(BaseModel):
    """A problem: what was asked, where it stands, how it ended, what it cost."""

    id: UUID
    status: str
    question: str
    reference: str | None
    policy: Policy
    lookahead: int | Literal["unlimited"]
    limits: LimitsChoice
    sampling: SamplingChoice
    step_timeout_s: float
    max_attempts: int
    deadline_at: AwareDatetime | None
    batch_id: UUID | None
    batch_index: int | None
    steps: int = Field(description="Accepted steps so far.")
    escalated_steps: int = Field(description="Decisions to escalate so far.")
    epoch: int
    answer: str | None = Field(description="Content of the last boxed expression.")
    verdict: str | None
    stop_reason: str | None
    failure: Failure | None
    ledger: Ledger
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    cancel_requested_at: AwareDatetime | None
    links: dict[str, str]


class ProblemPage(BaseModel):
    """One page of problems, in the order of the listing."""

    items: list[Problem]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null at the end.")


class Batch(BaseModel):
    """A batch with its sums."""

    id: UUID
    size: int
    created_at: AwareDatetime
    statuses: dict[str, int] = Field(description="Problems by status.")
    verdicts: dict[str, int] = Field(description="Ended problems by verdict.")
    steps: int
    escalated_steps: int
    ledger: Ledger
    links: dict[str, str]


class SubmittedBatch(Batch):
    """A batch that was just submitted."""

    problem_ids: list[UUID] = Field(description="In the order of the request.")


class Step(BaseModel):
    """One accepted step."""

    model_config = ConfigDict(from_attributes=True)

    step: int
    author: str
    text: str
    finish: str
    tokens: int
    score: float | None = Field(description="PRM score; null if the PRM was never asked.")
    model: str
    worker: str
    waited_ms: float
    worked_ms: float
    accepted_at: datetime


class Decision(BaseModel):
    """One decision: what was seen, what was chosen and why, and the draft that it was about."""

    model_config = ConfigDict(from_attributes=True)

    step: int
    epoch: int
    decided_at: datetime
    action: str
    reason: str
    value: float | None = Field(description="The number that was looked at.")
    compared_with: float | None = Field(description="The number that it was compared with.")
    score: float | None
    previous_scores: list[float]
    is_final: bool
    large_tokens: int
    seed: int
    draft_id: UUID | None
    draft_text: str | None
    draft_finish: str | None
    draft_tokens: int | None
    draft_prompt_tokens: int | None
    draft_cached_tokens: int | None
    draft_model: str | None
    draft_worker: str | None
    draft_waited_ms: float | None
    draft_worked_ms: float | None
    prm_model: str | None
    prm_worker: str | None
    prm_tokens: int | None
    prm_waited_ms: float | None
    prm_worked_ms: float | None


class StepPage(BaseModel):
    """Steps in the order of the solution."""

    items: list[Step]


class DecisionPage(BaseModel):
    """Decisions in the order of the solution."""

    items: list[Decision]


class AuditPage(BaseModel):
    """Rows of the view `audit`: one a step, with what was drafted, decided and kept."""

    items: list[dict[str, Any]]


class PolicyDescription(BaseModel):
    """A policy that a submission can name."""

    name: str
    revision: int
    description: str
    parameters: dict[str, Any] = Field(description="JSON schema of what it takes.")


class Part(BaseModel):
    """One part of the service."""

    name: str
    is_up: bool
    detail: str


class Readiness(BaseModel):
    """Whether the service can work, and what is down if not."""

    status: Literal["ready", "degraded", "unavailable"]
    down: list[str]
    parts: list[Part]
