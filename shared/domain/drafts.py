"""Drafts: steps as a model wrote them, what the PRM made of them, and work that never became one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from shared.domain.roles import Author, WorkerRole
from shared.domain.text import is_degenerate


class Finish(StrEnum):
    """Why a model stopped writing a step."""

    SEPARATOR = "separator"
    """It wrote the blank line that ends a step."""
    ENDED = "ended"
    """It ended by itself (end-of-sequence token)."""
    LENGTH = "length"
    """It reached the token limit of one step, or the end of its context, in the middle of the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A step as a model wrote it, not yet part of the trajectory, with the record of its making."""

    id: UUID
    """Derived from the command, its run and the step's index, so a draft that arrives twice is booked once."""
    author: Author
    index: int
    """Place in the trajectory, from 0."""
    prefix_digest: str
    """Digest of the question and the steps that it continues."""
    text: str
    finish: Finish
    tokens: int
    """Tokens decoded for it, as the engine counted them."""
    estimated_tokens: int = 0
    """Further tokens decoded for it, of requests for which a server reported no count."""
    opens_call: bool
    """Whether it is the first draft of its engine call: the ledger counts the call with it."""
    prompt_tokens: int = 0
    """Tokens of the input of all requests that the engine made for it."""
    cached_tokens: int = 0
    """Those of `prompt_tokens` that came from a cache."""
    mean_logprob: float | None = None
    """Mean log-probability that the model gave to its tokens (natural logarithm); `None` if it was not requested, or if
    the engine does not know it."""
    min_logprob: float | None = None
    """Log-probability of its least likely token."""
    model: str
    worker: str
    waited_ms: float
    """Time from the command's publication to its start in a worker; 0 for later drafts of the same call."""
    worked_ms: float
    """Time that the engine spent on this step."""

    @property
    def length(self) -> int:
        """Its tokens, counted or estimated: what limits apply to."""
        return self.tokens + self.estimated_tokens

    @property
    def is_degenerate(self) -> bool:
        """Whether it holds no words."""
        return is_degenerate(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """The record of one PRM call."""

    id: UUID
    model: str
    worker: str
    tokens: int
    """Tokens that the PRM computed, as the engine counted them."""
    estimated_tokens: int = 0
    """Further tokens that it computed, of requests for which a server reported no count."""
    waited_ms: float
    worked_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredDraft:
    """A draft with its PRM score.

    `score` is `None` until the PRM has answered, and stays `None` if it gave no usable number; `scoring` tells the two
    apart.
    """

    draft: Draft
    score: float | None = None
    scoring: Scoring | None = None
    goes_unscored: bool = False
    """Whether it is decided without a score, because the PRM was away when it was requested."""

    @property
    def is_scored(self) -> bool:
        """Whether the PRM has answered."""
        return self.scoring is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedWork:
    """What an engine call used after its last finished step, when it was cancelled or failed."""

    role: WorkerRole
    tokens: int
    """Tokens decoded (generators) or computed (PRM), as the engine counted them."""
    estimated_tokens: int = 0
    """Further tokens that a server did not count."""
    input_tokens: int = 0
    """Input tokens of a generator that were computed; cached ones are left out."""
    opens_call: bool
    """Whether no draft of the call was reported, so the ledger counts the call with this."""
