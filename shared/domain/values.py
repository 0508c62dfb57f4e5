"""The values that a problem is made of. Frozen; a change makes a new value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from shared.domain.text import as_number, boxed_answer, is_degenerate


class Role(StrEnum):
    """A model's part in the method; also the author of a step."""

    SMALL = "small"
    LARGE = "large"


class Action(StrEnum):
    """What a policy can do with a draft."""

    ACCEPT = "accept"
    """Keep the small model's draft."""
    ESCALATE = "escalate"
    """Have the large model write the step from the same prefix."""


class Finish(StrEnum):
    """Why a model stopped writing a step."""

    SEPARATOR = "separator"
    """The blank line that ends a step."""
    ENDED = "ended"
    """The model ended by itself (end-of-sequence token)."""
    LENGTH = "length"
    """The limit of tokens for one step."""


class Status(StrEnum):
    """Where a problem stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to the problem."""
        return self not in (Status.QUEUED, Status.RUNNING)


class StopReason(StrEnum):
    """Why the trajectory of a succeeded problem ends where it does."""

    FINAL_ANSWER = "final_answer"
    """A model ended by itself, or wrote a boxed answer."""
    MAX_STEPS = "max_steps"
    TOKEN_LIMIT = "token_limit"  # noqa: S105 - tokens of text
    """The submitter's limit, or the context of a model that was needed next, holds no more."""
    DEGENERATE = "degenerate"
    """The model had nothing to say, twice in a row."""


class Verdict(StrEnum):
    """How an answer compares with the reference."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    NO_ANSWER = "no_answer"
    UNVERIFIED = "unverified"
    """There is no reference, or the two differ in a way that a plain comparison cannot judge."""


CONTEXT_FULL = "input_too_long"
"""Code of the one failure that need not be one: a model's context is full, after steps that stand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn. The defaults are those of the method's released code."""

    temperature: float = 0.7
    """0 is greedy."""
    top_p: float = 0.8
    top_k: int = 20
    """0 is no limit."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds the work on one problem."""

    max_steps: int = 30
    max_step_tokens: int = 512
    max_tokens: int = 4096
    """Of the accepted trajectory: no step is begun once it holds this many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which models a policy needs at every step, derived from the policy before the first one."""

    drafts: bool = True
    """The small model drafts each step; otherwise the large model writes the whole solution."""
    scores: bool = True
    """The PRM scores each draft."""
    escalates: bool = True
    """The policy may turn to the large model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A step as a model wrote it, not yet part of the trajectory, with the record of its making."""

    id: UUID
    """Derived from the command that asked for it and its index: a draft that arrives twice is booked once."""
    author: Role
    index: int
    """Place in the trajectory, from 0."""
    after: str
    """Digest of the prefix that it continues."""
    text: str
    finish: Finish
    tokens: int
    opens_call: bool
    """Whether it is the first of its engine call: the call and its input are booked with it."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    model: str
    worker: str
    waited_ms: float
    """From the command's publication to its start in a worker (with the first draft of a call)."""
    worked_ms: float
    """Spent by the engine on this step."""

    @property
    def is_degenerate(self) -> bool:
        """Whether it says nothing, although the model was asked twice."""
        return is_degenerate(self.text)

    @property
    def ends_solution(self) -> bool:
        """Whether the solution is complete with it."""
        return self.finish is Finish.ENDED or boxed_answer(self.text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """The record of one PRM call."""

    id: UUID
    model: str
    worker: str
    tokens: int
    """Tokens that the PRM computed."""
    waited_ms: float
    worked_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredDraft:
    """A draft with what the PRM said of it.

    `score` is `None` while the PRM has not been heard, or for good if it gave no usable number; `scoring` tells the
    two apart.
    """

    draft: Draft
    score: float | None = None
    scoring: Scoring | None = None

    @property
    def is_scored(self) -> bool:
        """Whether the PRM was heard."""
        return self.scoring is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One accepted step of the trajectory."""

    index: int
    author: Role
    text: str
    finish: Finish
    tokens: int
    score: float | None = None
    """PRM score; a large step gets its score with the next draft, the last step of a solution may have none."""
    model: str
    worker: str
    waited_ms: float
    worked_ms: float
    accepted_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """All that a policy may see at one step.

    Scores that the PRM has not given (yet) are left out of `min_previous` and `product_previous`.
    """

    step: int
    score: float | None
    """PRM score of the draft; `None` for a policy that does not read scores."""
    previous_scores: tuple[float, ...] = ()
    draft_tokens: int | None = None
    """`None` if nothing was drafted."""
    is_final: bool = False
    """Whether the draft finishes the solution."""
    large_tokens: int = 0
    """Large-model tokens spent on the problem so far."""
    seed: int = 0
    """The problem's seed, for policies that draw lots."""

    @property
    def min_previous(self) -> float:
        """The least score of the earlier steps, 1 if there is none."""
        return min(self.previous_scores, default=1.0)

    @property
    def product_previous(self) -> float:
        """The product of the earlier scores, 1 if there is none."""
        return math.prod(self.previous_scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a policy chose, and why. Stored as returned, shown as stored."""

    action: Action
    reason: str
    """Short, stable words, such as `score_below_threshold`."""
    value: float | None = None
    """The number that was looked at."""
    against: float | None = None
    """The number that it was compared with."""


Decide = Callable[[Observation], Decision]
"""A policy's decision function: pure, total, deterministic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """One row of the audit: what was seen, what was chosen, and the draft that it was about."""

    step: int
    epoch: int
    """The epoch in which it was taken."""
    observation: Observation
    decision: Decision
    draft: Draft | None
    """`None` if the policy writes without drafts."""
    scoring: Scoring | None
    decided_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Tokens and calls of one problem. Every draft that is reported is booked exactly once.

    Not reported, and so not booked: what of a step was written when it was cancelled or failed, and work that a worker
    did once more because the first one's process died.
    """

    small_kept: int = 0
    """Decoded by the small model and part of the trajectory."""
    small_discarded: int = 0
    """Decoded by the small model and replaced by a large step."""
    small_in: int = 0
    """Input of the small model that was computed (cached tokens left out)."""
    small_wasted: int = 0
    """Decoded by the small model for nothing: drafted ahead past an escalation, or asked for again when late."""
    large_out: int = 0
    """Decoded by the large model and part of the trajectory: the paper's cost."""
    large_wasted: int = 0
    """Decoded by the large model for nothing: of a problem that ended meanwhile, or asked for again when late."""
    large_in: int = 0
    """Input of the large model that was computed (cached tokens left out)."""
    prm: int = 0
    """Computed by the PRM."""
    small_calls: int = 0
    large_calls: int = 0
    prm_calls: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a problem failed."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What the problem waits for: a role that writes `max_steps` steps from `from_step` on."""

    role: Role
    from_step: int
    max_steps: int
    serial: int
    """Counts the asks of a problem, so that a repeated ask has ids of its own."""
    issued_at: datetime
    expires_at: datetime
    """After this a worker need not begin: it was, or will be, asked for again."""
    unscored: int = 0
    """How many large steps right before it had no score when it was made; part of the ask, so that its command stays
    the same when those scores come."""
    broken_off_at: int | None = None
    """The step at which a fault ended it; those before it are on their way."""

    @property
    def end(self) -> int:
        """First step index past what comes of the ask."""
        return self.from_step + self.max_steps if self.broken_off_at is None else self.broken_off_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the submitter chose, fixed for the life of the problem."""

    plan: Plan = field(default_factory=Plan)
    lookahead: int | None = 0
    """Steps that the small model may draft past the last accepted one; `None` is unlimited."""
    limits: Limits = field(default_factory=Limits)
    sampling: Sampling = field(default_factory=Sampling)
    step_timeout_s: float = 60.0
    """Seconds that one step may take before it is asked for again (doubled with each attempt)."""
    max_attempts: int = 5
    """How often a step is asked for before the problem fails."""
    deadline_at: datetime | None = None
    """When the problem expires if it is not solved by then."""


def verdict_of(answer: str | None, reference: str | None) -> Verdict:
    """Compare an answer with the reference without evaluating either.

    Equal text and equal plain numbers are correct, different plain numbers are incorrect; all else is left open.
    """
    if reference is None:
        return Verdict.UNVERIFIED
    if answer is None:
        return Verdict.NO_ANSWER
    if answer.strip() == reference.strip():
        return Verdict.CORRECT
    ours, theirs = as_number(answer.strip()), as_number(reference.strip())
    if ours is None or theirs is None:
        return Verdict.UNVERIFIED
    return Verdict.CORRECT if ours == theirs else Verdict.INCORRECT
