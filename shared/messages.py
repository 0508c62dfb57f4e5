"""The contract between the services: commands go out, events come back.

Messages are frozen, versioned and JSON only. A change may add fields with a default; it may never rename, remove or
reinterpret one: `tests/unit/golden` holds an example of every version, and each must keep decoding. Unknown fields are
ignored, so that a newer sender and an older receiver understand each other.

Ids are derived, never drawn: the same command or event sent twice has the same id.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID, uuid5

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from shared.domain.drafts import Draft, Scoring, UnfinishedWork
from shared.domain.fitness import Unfit
from shared.domain.options import Sampling
from shared.domain.roles import Author, WorkerRole
from shared.errors import Fault, PermanentError

MAX_PREFIX_BYTES = 1 << 20
"""Size of question and steps, in bytes of UTF-8, at which a solution ends: a further command could not carry them.

The drafts of a message count as well, so a message holds this much and at most one step more. Encoded as JSON it is up
to six times as large (control characters). RabbitMQ 4 takes up to 16 MiB by default.
"""

_NAMESPACE = UUID("6c1d2c52-5f39-5d6c-9a5f-0d2b8a7f6e11")

Index = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Score = Annotated[float, Field(ge=0, le=1)]


def derive_id(*parts: object) -> UUID:
    """Derive an id from parts: the same parts always give the same id."""
    return uuid5(_NAMESPACE, "/".join(str(part) for part in parts))


def _check_drafts(drafts: tuple[Draft, ...]) -> tuple[Draft, ...]:
    """Refuse numbers that would falsify the ledger; drafts are plain values of the domain, which checks nothing."""
    if any(
        min(each.index, each.tokens, each.estimated_tokens, each.prompt_tokens, each.cached_tokens) < 0
        for each in drafts
    ):
        raise ValueError("a draft has a negative index or count")
    return drafts


def _check_scoring(scoring: Scoring) -> Scoring:
    if min(scoring.tokens, scoring.estimated_tokens) < 0:
        raise ValueError("a scoring has a negative count")
    return scoring


def _check_unfinished(work: UnfinishedWork) -> UnfinishedWork:
    if min(work.tokens, work.estimated_tokens, work.input_tokens) < 0:
        raise ValueError("unfinished work has a negative count")
    return work


Drafts = Annotated[tuple[Draft, ...], Field(min_length=1), AfterValidator(_check_drafts)]
Unfinished = Annotated[UnfinishedWork, AfterValidator(_check_unfinished)]


class UndecodableMessage(PermanentError):
    """The message does not follow the contract; inspect it in the dead-letter queue."""

    code = "undecodable_message"

    def __init__(self, raw: bytes, reason: str, message: Message | None = None) -> None:
        super().__init__(f"The message does not follow the contract: {reason}.")
        self.raw = raw
        """The message's bytes, untouched."""
        self.reason = reason
        self.message = message
        """The message, if it was decoded and only its queue is wrong."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    version: Literal[1] = 1


class _ProblemMessage(_Message):
    problem_id: UUID
    epoch: Index
    """The problem's epoch when the work was requested; results of an older epoch are never applied."""


class _Command(_ProblemMessage):
    version: Literal[1, 2] = 1  # type: ignore[assignment] # a command has one more
    """2 leaves out steps: workers of older versions refuse it, and would take the rest of the prefix for all of it."""
    id: UUID
    issued_at: datetime
    expires_at: datetime
    """A worker that takes the command later drops it: the steps are requested again by then."""
    request_number: Index
    """Number of the problem's request that the command serves. Failures echo it, so a late failure of an abandoned
    request is not charged to its replacement."""
    step_timeout_s: Annotated[float, Field(gt=0)]
    question: str
    prefix: tuple[str, ...]
    """Texts of the steps so far, without those that the message leaves out."""
    omitted_steps: Index = 0
    """Number of steps at the beginning of the prefix that the message leaves out; see `PrefixMissing`."""
    prefix_digest: str = ""
    """Digest of the question and the whole prefix. It tells whether a worker knows the steps that are left out, so only
    a message that leaves out none may lack it."""

    @property
    def first_step(self) -> int:
        """Index of the first step after the prefix."""
        return self.omitted_steps + len(self.prefix)

    def with_prefix(self, texts: Sequence[str], *, omit: int = 0) -> Self:
        """Return the command with a prefix.

        Args:
            texts: Texts of all steps of the prefix.
            omit: Number of them to leave out, from the beginning.
        """
        version = 2 if omit else 1
        return self.model_copy(update={"version": version, "prefix": tuple(texts[omit:]), "omitted_steps": omit})


class GenerateSteps(_Command):
    """Command to a generator: write the steps that follow the prefix."""

    kind: Literal["generate_steps"] = "generate_steps"
    author: Author
    max_steps: Count
    max_step_tokens: Count
    max_tokens: Count
    results_to: Literal["prm", "events"]
    """Queue that each finished step goes to: the PRM's, or the orchestrator's."""
    reports_stretch: bool = False
    """Whether the worker also reports the whole stretch to the orchestrator once it is written, so that its
    continuation can be requested before the last scores arrive. Only useful with `results_to="prm"`."""
    unscored_steps: Index = 0
    """Number of steps at the end of the prefix that the PRM has not scored yet; it does so with the first draft."""
    scored_prefix: Index | None = None
    """Number of steps before the drafts that commands to the PRM carry at least; `None` is all."""
    reports_confidence: bool = False
    """Whether the drafts carry log-probabilities, if the engine knows them."""
    sampling: Sampling


class ScoreSteps(_Command):
    """Command to the PRM: score drafts, and the last accepted steps if it has not scored them yet."""

    kind: Literal["score_steps"] = "score_steps"
    unscored_steps: Index = 0
    """Number of steps at the end of the prefix to score as well."""
    drafts: Drafts
    """Follow the prefix and each other without a gap."""


class CancelWork(_ProblemMessage):
    """Broadcast to every worker: cancel the problem's work of epochs before this one."""

    kind: Literal["cancel_work"] = "cancel_work"


class StepsGenerated(_ProblemMessage):
    """Steps were written that are not to be scored, or a stretch is complete while its scores are on their way."""

    kind: Literal["steps_generated"] = "steps_generated"
    id: UUID
    drafts: Drafts


class StepsScored(_ProblemMessage):
    """The PRM scored drafts."""

    kind: Literal["steps_scored"] = "steps_scored"
    id: UUID
    drafts: Drafts
    scores: tuple[Score | None, ...]
    """One score for each draft; `None` where the PRM gave no number in [0, 1]."""
    prefix_scores: tuple[Score | None, ...] = ()
    """Scores of the accepted steps right before the first draft that had none."""
    scoring: Annotated[Scoring, AfterValidator(_check_scoring)]


class WorkFailed(_ProblemMessage):
    """A command failed."""

    kind: Literal["work_failed"] = "work_failed"
    id: UUID
    role: WorkerRole
    step: Index = 0
    """First step that was not written or scored; the steps before it are on their way."""
    request_number: Index
    """Echoed from the command."""
    code: str
    detail: str
    retryable: bool
    fault: Fault | None = None
    """Whose fault it is; `None` from older workers, whose failures are the input's or passing."""
    worker: str
    drafts: Annotated[tuple[Draft, ...], AfterValidator(_check_drafts)] = ()
    """Drafts that were to be scored: no other event reports their cost."""
    unfinished: Unfinished | None = None
    """Work past the last finished step."""


class WorkCancelled(_ProblemMessage):
    """A worker cancelled a command that had already used tokens."""

    kind: Literal["work_cancelled"] = "work_cancelled"
    id: UUID
    worker: str
    unfinished: Unfinished


class ClockTold(_Message):
    """Broadcast to every worker: the time by the clock of the service, which is the database's."""

    kind: Literal["clock_told"] = "clock_told"
    told_at: datetime


class PrefixMissing(_ProblemMessage):
    """A worker got a command that leaves out steps which it does not know: it is to be published with them."""

    kind: Literal["prefix_missing"] = "prefix_missing"
    id: UUID
    command: Annotated[GenerateSteps | ScoreSteps, Field(discriminator="kind")]
    """The command as it arrived."""
    known_steps: Index = 0
    """Number of steps at the beginning of the prefix that the worker probably knows; fewer than were left out."""
    runs: Index = 0
    losses: Index = 0
    alone: Index = 0
    """What happened to the command before; see `shared.bus.topology.Past`."""


class WorkerSeen(_Message):
    """Heartbeat of a worker process."""

    kind: Literal["worker_seen"] = "worker_seen"
    role: WorkerRole
    worker: str
    model: str
    seen_at: datetime
    """By the clock of the service, if the worker has been told it; otherwise by its own."""
    clock_ahead_s: float | None = None
    """Seconds by which the worker's own clock is ahead of the service's; `None` until it has been told."""
    unfit: Unfit | None = None
    """Why it takes no commands for now; `None` if it takes them."""
    completes_prefixes: bool = False
    """Whether it adds the steps that commands leave out; workers of older versions do not."""


Command = GenerateSteps | ScoreSteps
"""Messages to the queues of workers."""


def derive_work_id(command: Command, *, worker: str, runs: int) -> UUID:
    """Derive the id from which the ids of all results of a command derive.

    A command that is carried out again is other work, and costs again: its results have other ids, and are booked too.

    Args:
        command: The command.
        worker: Name of the process that carries it out.
        runs: Number of times that a worker may have begun it before.
    """
    return derive_id(command.id, "run", worker, runs)


ProblemEvent = StepsGenerated | StepsScored | WorkFailed | WorkCancelled | PrefixMissing
"""Events that concern one problem."""

Event = ProblemEvent | WorkerSeen
"""Messages to the orchestrator."""


def drafts_of(message: Message) -> tuple[Draft, ...]:
    """Return the drafts that a message carries."""
    match message:
        case ScoreSteps() | StepsGenerated() | StepsScored() | WorkFailed():
            return message.drafts
        case PrefixMissing():
            return drafts_of(message.command)
        case _:
            return ()


Broadcast = CancelWork | ClockTold
"""Messages to every worker process."""

Message = Command | Event | Broadcast

_ADAPTER: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def encode(message: Message) -> bytes:
    """Encode a message as JSON in UTF-8."""
    return message.__pydantic_serializer__.to_json(message)


def decode(raw: bytes | str) -> Message:
    """Decode a message of any kind.

    Raises:
        UndecodableMessage: It is not JSON, its kind or version is unknown, or a field is missing or wrong.
    """
    try:
        return _ADAPTER.validate_json(raw)
    except (ValidationError, ValueError) as error:
        data = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
        raise UndecodableMessage(data, _reason(error)) from error


def _reason(error: Exception) -> str:
    """Name the first wrong field, without repeating its content."""
    if not isinstance(error, ValidationError):
        return type(error).__name__
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "union_tag_invalid":
        return "its kind is unknown"
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])
