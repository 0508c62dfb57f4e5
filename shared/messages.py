"""The contract between the services: commands go out, events come back.

Messages are frozen, versioned and JSON only. A change may add fields with a default; it may never rename, remove or
reinterpret one: `tests/unit/golden` keeps an example of every version, and each must decode for ever. Unknown fields
are ignored, so that a newer sender and an older receiver can meet.

Ids are derived, never drawn: the same command sent twice, or the same work done twice, has the same id.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID, uuid5

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from shared.domain.values import Draft, Role, Sampling, Scoring
from shared.errors import PermanentError

_NAMESPACE = UUID("6c1d2c52-5f39-5d6c-9a5f-0d2b8a7f6e11")

Index = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


def derive_id(*parts: object) -> UUID:
    """Derive an id from what it stands for: the same parts always give the same id."""
    return uuid5(_NAMESPACE, "/".join(str(part) for part in parts))


def _check_drafts(drafts: tuple[Draft, ...]) -> tuple[Draft, ...]:
    """Refuse what would make the ledger wrong; drafts are plain values of the domain, which checks nothing."""
    if any(min(each.index, each.tokens, each.prompt_tokens, each.cached_tokens) < 0 for each in drafts):
        raise ValueError("a draft has a negative index or count")
    return drafts


def _check_scoring(scoring: Scoring) -> Scoring:
    if scoring.tokens < 0:
        raise ValueError("a scoring has a negative count")
    return scoring


Drafts = Annotated[tuple[Draft, ...], Field(min_length=1), AfterValidator(_check_drafts)]


class UndecodableMessage(PermanentError):
    """The message is not one of the contract; look at it in the dead-letter queue."""

    code = "undecodable_message"

    def __init__(self, raw: bytes, reason: str) -> None:
        super().__init__(f"The message is not one of the contract: {reason}.")
        self.raw = raw
        """The message's bytes, untouched."""
        self.reason = reason


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    version: Literal[1] = 1


class _ProblemMessage(_Message):
    problem_id: UUID
    epoch: Index
    """The problem's epoch when the work was asked for; work of an older epoch is never applied."""


class _Command(_ProblemMessage):
    id: UUID
    issued_at: datetime
    expires_at: datetime
    """A worker that takes the command later drops it: by then it was asked for again."""
    serial: Index
    """Which of the problem's asks it belongs to; a failure repeats it, so that what failed after it was given up is not
    held against what was asked for in its place."""
    step_timeout_s: Annotated[float, Field(gt=0)]
    question: str
    prefix: tuple[str, ...]
    """Texts of the accepted steps."""

    @property
    def first_step(self) -> int:
        """Index of the first step that it is about."""
        return len(self.prefix)


class GenerateSteps(_Command):
    """Asks a generator for the steps that follow the prefix."""

    kind: Literal["generate_steps"] = "generate_steps"
    role: Role
    max_steps: Count
    max_step_tokens: Count
    max_tokens: Count
    then: Literal["prm", "events"]
    """Where each finished step goes: to be scored, or straight back."""
    announce: bool = False
    """Whether the whole stretch is reported as well once it is written, so that its continuation can be asked for
    before the last scores are in. Only useful with `then="prm"`."""
    unscored: Index = 0
    """How many of the last prefix steps the PRM has not scored yet; it does so with the first draft."""
    sampling: Sampling


class ScoreSteps(_Command):
    """Asks the PRM to score drafts, and the last accepted steps if it has not seen them."""

    kind: Literal["score_steps"] = "score_steps"
    unscored: Index = 0
    """How many of the last prefix steps to score as well."""
    drafts: Drafts
    """Follow the prefix and each other without a gap."""


class CancelWork(_ProblemMessage):
    """Tells every worker that work for the problem from before this epoch is wanted no more."""

    kind: Literal["cancel_work"] = "cancel_work"


class StepsGenerated(_ProblemMessage):
    """Steps were written that nobody scores, or a stretch of drafts is complete while its scores are on their way."""

    kind: Literal["steps_generated"] = "steps_generated"
    id: UUID
    drafts: Drafts


class StepsScored(_ProblemMessage):
    """The PRM scored drafts."""

    kind: Literal["steps_scored"] = "steps_scored"
    id: UUID
    drafts: Drafts
    scores: tuple[Annotated[float, Field(ge=0, le=1)] | None, ...]
    """One a draft; `None` where the PRM gave no number in [0, 1]."""
    prefix_scores: tuple[Annotated[float, Field(ge=0, le=1)] | None, ...] = ()
    """Scores of the accepted steps right before the first draft that had none."""
    scoring: Annotated[Scoring, AfterValidator(_check_scoring)]


class WorkFailed(_ProblemMessage):
    """A command could not be carried out."""

    kind: Literal["work_failed"] = "work_failed"
    id: UUID
    role: Literal["small", "large", "prm"]
    step: Index = 0
    """First step that was not done; those before it are on their way."""
    serial: Index
    """Of the command."""
    code: str
    detail: str
    retryable: bool
    worker: str
    drafts: Annotated[tuple[Draft, ...], AfterValidator(_check_drafts)] = ()
    """Drafts that were to be scored: nobody else reports what they cost."""


class WorkerSeen(_Message):
    """A worker process is up and takes commands."""

    kind: Literal["worker_seen"] = "worker_seen"
    role: Literal["small", "large", "prm"]
    worker: str
    model: str
    seen_at: datetime


Command = GenerateSteps | ScoreSteps
"""What goes to a queue of workers."""

ProblemEvent = StepsGenerated | StepsScored | WorkFailed
"""What moves a problem on."""

Event = ProblemEvent | WorkerSeen
"""What goes to the orchestrator."""

Message = Command | Event | CancelWork

_ADAPTER: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def encode(message: Message) -> bytes:
    """Encode a message as JSON in UTF-8."""
    return message.__pydantic_serializer__.to_json(message)


def decode(raw: bytes | str) -> Message:
    """Decode a message of any kind.

    Raises:
        UndecodableMessage: It is no JSON, of an unknown kind or version, or a field is missing or wrong.
    """
    try:
        return _ADAPTER.validate_json(raw)
    except (ValidationError, ValueError) as error:
        data = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
        raise UndecodableMessage(data, _reason(error)) from error


def _reason(error: Exception) -> str:
    """Name the first field that is wrong, without repeating its content."""
    if not isinstance(error, ValidationError):
        return type(error).__name__
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "union_tag_invalid":
        return "its kind is unknown"
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])
