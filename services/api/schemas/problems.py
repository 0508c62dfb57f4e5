"""Problems and batches as the API returns them."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from services.api.schemas.pages import Page
from services.api.schemas.submissions import LimitsChoice, SamplingChoice, WrappersChoice
from services.api.schemas.values import ErrorCode, FailureCode
from shared.domain.options import WhenLargeAway, WhenPrmAway, WhenSmallAway
from shared.domain.roles import WorkerRole
from shared.domain.status import BatchStatus, Status, StopReason
from shared.domain.verdict import Verdict


class Policy(BaseModel):
    """Policy of a problem."""

    name: str = Field(description="Name of the policy.")
    revision: int = Field(description="Revision of the policy's code when the problem was submitted.")
    parameters: dict[str, Any] = Field(description="Parameters of the policy, including defaults.")
    version: int | None = Field(description="Version of a fitted policy; null for a policy without versions.")
    wrappers: WrappersChoice = Field(description="How the policy is applied.")


class Failure(BaseModel):
    """Why a problem failed."""

    code: FailureCode = Field(description="Short, stable name of the failure, such as `attempts_exhausted`.")
    detail: str = Field(description="Explanation of the failure in one sentence; empty after an erasure.")


class Awaited(BaseModel):
    """A role that a problem waits for."""

    role: WorkerRole = Field(description="The role: `small`, `large` or `prm`.")
    since: AwareDatetime = Field(description="Time since when it is away.")
    code: str | None = Field(
        description="Why: the code of the error that made its worker unfit, or `no_heartbeat`; null if it is back."
    )
    detail: str = Field(description="Explanation in one sentence.")


class Ledger(BaseModel):
    """Tokens and calls that were used. Each piece of work that a worker reports is counted once.

    For each author, kept + discarded + wasted is exactly the number of tokens that engines reported. Estimated counts
    are part of no other field.
    """

    model_config = ConfigDict(from_attributes=True)

    small_kept: int = Field(description="Tokens that the small model decoded, in steps of the solution.")
    small_discarded: int = Field(description="Tokens that the small model decoded, in drafts that were escalated.")
    small_wasted: int = Field(
        description="Tokens that the small model decoded in no step and in no escalated draft: drafts ahead of an "
        "escalation, of the end or of a repeated request; drafts that arrived too late or twice; drafts whose scoring "
        "failed; what cancelled and failed calls had decoded; and output without words that ended the solution."
    )
    small_estimated: int = Field(
        description="Estimate of the tokens that the small model decoded where its server counted none."
    )
    small_in: int = Field(description="Input tokens that the small model computed, without cached ones.")
    large_out: int = Field(description="Tokens that the large model decoded, in steps of the solution.")
    large_wasted: int = Field(
        description="Tokens that the large model decoded in no step: steps ahead of the end or of a repeated request; "
        "steps that arrived too late or twice; what cancelled and failed calls had decoded; and output without words."
    )
    large_estimated: int = Field(
        description="Estimate of the tokens that the large model decoded where its server counted none."
    )
    large_in: int = Field(description="Input tokens that the large model computed, without cached ones.")
    prm_tokens: int = Field(description="Tokens that the process reward model (PRM) computed.")
    prm_estimated: int = Field(
        description="Estimate of the tokens that the PRM computed, where its server counted none."
    )
    small_calls: int = Field(description="Number of calls of the small model.")
    large_calls: int = Field(description="Number of calls of the large model.")
    prm_calls: int = Field(description="Number of calls of the PRM.")


class Problem(BaseModel):
    """A problem: its options, its status, its result and its cost."""

    id: UUID = Field(description="Id of the problem.")
    status: Status = Field(description="Status of the problem.")
    question: str = Field(description="Problem statement; empty after an erasure.")
    reference: str | None = Field(description="Correct answer; null if it was not given.")
    policy: Policy = Field(description="Policy that decides which steps the large model writes.")
    arm: str | None = Field(description="Name of the arm that was drawn; null if the submission named one policy.")
    shadows: list[Policy] = Field(description="Policies that also decide, without any effect on the problem.")
    lookahead: int | Literal["unlimited"] = Field(
        description="Number of steps that the small model may draft ahead of the last accepted one."
    )
    limits: LimitsChoice = Field(description="Bounds of the work on the problem.")
    sampling: SamplingChoice = Field(description="How the models sample tokens.")
    step_timeout_s: float = Field(
        description="Seconds after which a step is requested again; doubles with each attempt, up to an hour."
    )
    max_attempts: int = Field(description="Maximum number of times that a step is requested before the problem fails.")
    when_prm_away: WhenPrmAway = Field(description="What happens while the PRM is away.")
    when_large_away: WhenLargeAway = Field(description="What happens while the large model is away and needed.")
    when_small_away: WhenSmallAway = Field(description="What happens while the small model is away.")
    away_patience_s: float = Field(description="Seconds that a role is away before the problem goes on without it.")
    waits_for: list[Awaited] = Field(
        description="Roles that the problem waits for, because none of their workers is fit; empty while work goes on."
    )
    deadline_at: AwareDatetime | None = Field(
        description="Time at which the problem expires unsolved; null if there is no deadline."
    )
    batch_id: UUID | None = Field(description="Id of the batch that the problem belongs to; null if there is none.")
    batch_index: int | None = Field(description="Index of the problem in its batch, from 0; null if there is no batch.")
    steps: int = Field(description="Number of accepted steps so far; their indexes count from 0.")
    escalations: int = Field(description="Number of decisions to escalate so far.")
    epoch: int = Field(description="Counter that rises with each escalation; results of an older epoch are discarded.")
    answer: str | None = Field(
        description="Content of the solution's last answer box, or the answer that its last step states in words;"
        " null if there is none."
    )
    verdict: Verdict | None = Field(
        description="Comparison of the answer with the reference; null while the problem is queued or running. A "
        "problem with a reference that ends without a solution has the verdict `no_answer`."
    )
    stop_reason: StopReason | None = Field(
        description="Why the solution ends where it does; null unless the problem has succeeded."
    )
    failure: Failure | None = Field(description="Why the problem failed; null unless it has failed.")
    note: str | None = Field(
        description="What to know about the answer: that a bundled demonstration model wrote the first or last step of "
        "the solution; null if none did."
    )
    ledger: Ledger = Field(description="Tokens and calls used so far.")
    created_at: AwareDatetime = Field(description="Time of the submission.")
    started_at: AwareDatetime | None = Field(description="Time at which work began; null before that.")
    finished_at: AwareDatetime | None = Field(description="Time at which the problem ended; null before that.")
    cancel_requested_at: AwareDatetime | None = Field(
        description="Time at which its cancellation was requested; null if it was not."
    )
    erased_at: AwareDatetime | None = Field(
        description="Time at which the texts of the problem and its record were erased; null if they were not."
    )
    links: dict[str, str] = Field(description="Paths of the problem, its record, its events and its cancellation.")


class ProblemPage(Page[Problem]):
    """One page of problems."""


class Change(BaseModel):
    """A problem that was submitted, or has ended."""

    problem_id: UUID = Field(description="Id of the problem.")
    status: Status = Field(description="Status that the problem took: `queued` on its submission, or a final one.")
    changed_at: AwareDatetime = Field(description="Time at which the transaction with the change began.")
    links: dict[str, str] = Field(description="Path of the problem.")


class ChangePage(Page[Change]):
    """One page of changes. Its cursor is never null, so that a reader can go on when later changes have come."""


class Sums(BaseModel):
    """Sums over problems of a batch."""

    size: int = Field(description="Number of problems.")
    statuses: dict[Status, int] = Field(description="Number of problems by status; statuses without any are omitted.")
    verdicts: dict[Verdict, int] = Field(description="Number of problems by verdict; verdicts without any are omitted.")
    steps: int = Field(description="Number of accepted steps of all problems.")
    escalations: int = Field(description="Number of decisions to escalate in all problems.")
    ledger: Ledger = Field(description="Tokens and calls used for all problems.")


class Failures(BaseModel):
    """Problems of a batch that failed for one reason."""

    code: FailureCode = Field(description="Code of the failures.")
    count: int = Field(description="Number of problems of the batch that failed with the code.")
    detail: str = Field(description="Explanation of one of these failures; empty after an erasure.")


class ListedBatch(BaseModel):
    """A batch without the sums over its problems."""

    id: UUID = Field(description="Id of the batch.")
    size: int = Field(description="Number of problems.")
    status: BatchStatus = Field(description="Status of the batch, as follows from those of its problems.")
    created_at: AwareDatetime = Field(description="Time of the submission.")
    cancel_requested_at: AwareDatetime | None = Field(
        description="Time at which the cancellation of the batch was first requested; null if it was not."
    )
    links: dict[str, str] = Field(description="Paths of the batch, its problems and its cancellation.")


class BatchPage(Page[ListedBatch]):
    """One page of batches."""


class Batch(Sums, ListedBatch):
    """A batch with the sums over its problems, and over those of each arm."""

    failures: list[Failures] = Field(
        description="Why problems of the batch failed, the commonest code first; empty if none failed."
    )
    arms: dict[str, Sums] = Field(
        description="Sums over the problems of each arm, by its name; empty if the submission named no split."
    )


class CancelledBatch(Batch):
    """A batch after a request to cancel it."""

    newly_cancelled: int = Field(
        description="Number of problems whose cancellation this request recorded; others had ended, or it was recorded."
    )


class RejectedField(BaseModel):
    """Wrong field of a problem that was skipped."""

    line: int | None = Field(description="Number of the line, from 1; null unless the body is JSON Lines.")
    index: int = Field(description="Index of the problem among the received ones, from 0.")
    field: str = Field(description="Place of the field in the problem; empty if the whole problem is wrong.")
    code: ErrorCode = Field(description="Short, stable name of the error.")
    message: str = Field(description="Explanation in one sentence.")


class SubmittedBatch(Batch):
    """A batch with the ids of its problems, and what became of the others of the request."""

    problem_ids: list[UUID] | None = Field(
        description="Ids of the problems, in the order of the request; null if they are more than TRIM_MAX_BATCH_SIZE, "
        "which the batch's list of problems has in this order."
    )
    received: int = Field(description="Number of problems of the request: the accepted and the rejected ones.")
    accepted: int = Field(description="Number of problems of the request that the batch has.")
    rejected: int = Field(description="Number of problems of the request that are wrong, and were skipped.")
    errors: list[RejectedField] = Field(description="Wrong fields of the rejected problems, the first 100 of them.")
