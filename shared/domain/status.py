"""Where a problem stands, and why it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
        """Whether the problem has ended."""
        return self not in (Status.QUEUED, Status.RUNNING)


class BatchStatus(StrEnum):
    """Status of a batch, as follows from its problems."""

    RUNNING = "running"
    """Some of its problems are queued or running."""
    CANCELLING = "cancelling"
    """The same, and the cancellation of the batch was requested."""
    ENDED = "ended"
    """All of its problems have ended, however each of them did."""


class StopReason(StrEnum):
    """Why the trajectory of a succeeded problem ends where it does."""

    FINAL_ANSWER = "final_answer"
    """A model ended by itself, called a boxed answer the answer, or had no words to add to one."""
    MAX_STEPS = "max_steps"
    """The trajectory has as many steps as the submitter allows."""
    TOKEN_LIMIT = "token_limit"  # noqa: S105 - tokens of text
    """The trajectory reached the submitter's token limit, or fills the context of the model that is needed next."""
    SIZE_LIMIT = "size_limit"
    """Question and trajectory reached the number of bytes that a message may carry."""
    DEGENERATE = "degenerate"
    """The model wrote no words, twice in a row."""
    STEP_CUT = "step_cut"
    """The last step was cut at its token limit or at the end of the model's context, so no step can follow it."""
    REPEATED = "repeated"
    """The last step repeats the one before it, or completes the same cycle of two to four steps once more."""


CONTEXT_FULL = "input_too_long"
"""Failure code for an input that exceeds a model's context. After at least one accepted step it ends the solution
instead of failing the problem."""


COMMAND_BURIED = "command_buried"
"""Code of a failure that reports that a command became a dead letter."""

CRASHES_WORKERS = "crashes_workers"
"""Failure code for a command that was lost with its worker again and again, also when it ran alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a problem failed."""

    code: str
    """Stable name, such as `attempts_exhausted`."""
    detail: str
    """One sentence for people."""
