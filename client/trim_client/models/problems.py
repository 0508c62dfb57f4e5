"""Problems and batches."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pydantic import AwareDatetime, Field

from trim_client.models.base import Model
from trim_client.models.values import (
    BatchStatus,
    Lookahead,
    Role,
    Status,
    StopReason,
    Verdict,
    WhenLargeAway,
    WhenPrmAway,
    WhenSmallAway,
)


class Wrappers(Model):
    """How a policy is applied, whichever it is."""

    budget: int | None = None
    """Large-model tokens that the problem may use; `None` is no limit."""
    take_over: bool = False
    """Whether the large model writes the rest of the solution after the first escalation."""
    epsilon: float = 0.0
    """Share of the decisions that are drawn by lot."""


class Policy(Model):
    """Policy of a problem."""

    name: str
    revision: int
    """Revision of the policy's code when the problem was submitted."""
    parameters: dict[str, Any]
    """Parameters, including defaults."""
    version: int | None
    """Version of a fitted policy; `None` for a policy without versions."""
    wrappers: Wrappers


class Limits(Model):
    """Bounds of the work on a problem."""

    max_steps: int
    max_step_tokens: int
    max_tokens: int


class Sampling(Model):
    """How the models sample tokens."""

    temperature: float
    """0 is greedy."""
    top_p: float
    top_k: int
    """0 is no limit."""
    seed: int | None


class Failure(Model):
    """Why a problem failed."""

    code: str
    """Short, stable name of the failure, such as `attempts_exhausted`."""
    detail: str
    """Explanation in one sentence; empty after an erasure."""


class Awaited(Model):
    """A role that a problem waits for."""

    role: Role
    since: AwareDatetime
    code: str | None
    """Code of the error that made its worker unfit, or `no_heartbeat`; `None` if it is back."""
    detail: str
    """Explanation in one sentence."""


class Ledger(Model):
    """Tokens and calls that were used. Estimated counts are part of no other field."""

    small_kept: int
    """Tokens that the small model decoded, in steps of the solution."""
    small_discarded: int
    """Tokens that the small model decoded, in drafts that were escalated."""
    small_wasted: int
    """Tokens that the small model decoded in no step and in no escalated draft."""
    small_estimated: int
    small_in: int
    """Input tokens that the small model computed, without cached ones."""
    large_out: int
    """Tokens that the large model decoded, in steps of the solution."""
    large_wasted: int
    """Tokens that the large model decoded in no step."""
    large_estimated: int
    large_in: int
    prm_tokens: int
    """Tokens that the process reward model (PRM) computed."""
    prm_estimated: int
    small_calls: int
    large_calls: int
    prm_calls: int

    @property
    def large_tokens(self) -> int:
        """All tokens that the large model decoded."""
        return self.large_out + self.large_wasted + self.large_estimated

    @property
    def small_tokens(self) -> int:
        """All tokens that the small model decoded."""
        return self.small_kept + self.small_discarded + self.small_wasted + self.small_estimated


class Problem(Model):
    """A problem: its options, its status, its result and its cost."""

    id: UUID
    status: Status
    question: str
    """Problem statement; empty after an erasure."""
    reference: str | None
    """Correct answer; `None` if it was not given."""
    policy: Policy
    arm: str | None
    """Name of the arm that was drawn; `None` if the submission named one policy."""
    shadows: list[Policy]
    """Policies that also decide, without any effect."""
    lookahead: Lookahead
    limits: Limits
    sampling: Sampling
    step_timeout_s: float
    max_attempts: int
    when_prm_away: WhenPrmAway
    when_large_away: WhenLargeAway
    when_small_away: WhenSmallAway
    away_patience_s: float
    waits_for: list[Awaited]
    """Roles that the problem waits for; empty while work goes on."""
    deadline_at: AwareDatetime | None
    batch_id: UUID | None
    batch_index: int | None
    steps: int
    """Number of accepted steps so far."""
    escalations: int
    """Number of decisions to escalate so far."""
    epoch: int
    answer: str | None
    """Answer of the solution; `None` if there is none."""
    verdict: Verdict | None
    """Comparison of the answer with the reference; `None` until the problem has ended."""
    stop_reason: StopReason | None
    """Why the solution ends where it does; `None` unless the problem has succeeded."""
    failure: Failure | None
    """Why the problem failed; `None` unless it has failed."""
    note: str | None
    """What to know about the answer: that a bundled demonstration model wrote it."""
    ledger: Ledger
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    cancel_requested_at: AwareDatetime | None
    erased_at: AwareDatetime | None
    links: dict[str, str]

    @property
    def has_ended(self) -> bool:
        """Whether the problem has ended, however: also with a status that this version does not know."""
        return self.finished_at is not None

    @property
    def has_succeeded(self) -> bool:
        """Whether the problem ended with a solution, right or wrong."""
        return self.status == "succeeded"


class Sums(Model):
    """Sums over problems of a batch."""

    size: int
    """Number of problems."""
    statuses: dict[str, int]
    """Number of problems by status; statuses without any are omitted."""
    verdicts: dict[str, int]
    """Number of problems by verdict; verdicts without any are omitted."""
    steps: int
    escalations: int
    ledger: Ledger

    @property
    def open(self) -> int:
        """Number of problems that have not ended."""
        return self.statuses.get("queued", 0) + self.statuses.get("running", 0)

    @property
    def ended(self) -> int:
        """Number of problems that have ended."""
        return self.size - self.open


class Failures(Model):
    """Problems of a batch that failed for one reason."""

    code: str
    """Code of the failures."""
    count: int
    """Number of problems of the batch that failed with the code."""
    detail: str
    """Explanation of one of these failures."""


class ListedBatch(Model):
    """A batch without the sums over its problems. Fields with defaults are missing in answers of older services."""

    id: UUID
    size: int
    """Number of problems."""
    status: BatchStatus | None = None
    """Status of the batch, as follows from those of its problems."""
    created_at: AwareDatetime
    cancel_requested_at: AwareDatetime | None = None
    """Time at which its cancellation was first requested."""
    links: dict[str, str]


class Batch(Sums, ListedBatch):
    """A batch with the sums over its problems, and over those of each arm."""

    failures: list[Failures] = Field(default_factory=list)
    """Why problems of the batch failed, the commonest code first."""
    arms: dict[str, Sums]
    """Sums over the problems of each arm, by its name; empty if the submission named no split."""

    @property
    def has_ended(self) -> bool:
        """Whether all its problems have ended."""
        return not self.open


class CancelledBatch(Batch):
    """A batch after a request to cancel it."""

    newly_cancelled: int = 0
    """Number of problems whose cancellation this request recorded."""


class RejectedField(Model):
    """Wrong field of a problem that was skipped."""

    line: int | None
    """Number of the line, from 1; `None` unless the body was JSON Lines."""
    index: int
    """Index of the problem in the request, from 0."""
    field: str
    """Place of the field in the problem; empty if the whole problem is wrong."""
    code: str
    message: str
    """Explanation in one sentence."""


class SubmittedBatch(Batch):
    """A batch with the ids of its problems, and what became of the others of the request."""

    problem_ids: list[UUID] | None
    """Ids of the problems, in the order of the request; `None` if there are too many to list."""
    received: int | None = None
    """Number of problems of the request."""
    accepted: int | None = None
    """Number of problems of the request that the batch has."""
    rejected: int = 0
    """Number of problems of the request that are wrong, and were skipped."""
    errors: list[RejectedField] = Field(default_factory=list)
    """Wrong fields of the rejected problems, the first of them."""
    was_submitted_before: bool = False
    """Whether an earlier request with the same idempotency key made it (status 200)."""
