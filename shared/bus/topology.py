"""The queues as data: what each one carries, how it is addressed, and where its dead letters go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, assert_never

from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.message import Message as KombuMessage

from shared.bus.signing import SIGNATURE_HEADER
from shared.domain.roles import WorkerRole
from shared.messages import (
    CancelWork,
    ClockTold,
    GenerateSteps,
    Message,
    PrefixMissing,
    ScoreSteps,
    StepsGenerated,
    StepsScored,
    UndecodableMessage,
    WorkCancelled,
    WorkerSeen,
    WorkFailed,
    decode,
    encode,
)

EVENTS: Final = "events"
"""The orchestrator's queue."""

QueueRole = WorkerRole | Literal["events"]
"""Consumer of a queue: the workers of a role, or the orchestrator."""

QUEUES: Final[tuple[QueueRole, ...]] = (*WorkerRole, EVENTS)
"""Every queue. Broadcasts are on none of them: each worker process binds its own queue for them."""

COMMAND = "trim.command"
"""Celery's name of the one task that workers have; each command carries it in its `task` header."""

REASON_HEADER = "x-trim-reason"
"""Header of a dead letter: the reason why it is there."""

BURIED_HEADER: Final = "x-trim-buried-at"
"""Header of a dead letter: when it was published as one, by the clock of the process that did so."""

RUNS_HEADER = "x-trim-runs"
LOSSES_HEADER = "x-trim-losses"
ALONE_HEADER = "x-trim-alone"
MARK_HEADER = "x-trim-mark"
"""Headers of a command that a worker has published again: its `Past` until then."""

DELIVERY_LIMIT = 20
"""Deliveries after which a message becomes a dead letter: an event may crash every orchestrator that takes it."""


def delivered_too_often(deliveries: int | str) -> str:
    """Return the reason of a dead letter that reached the limit on a broker that leaves it to its readers."""
    return f"it was delivered {deliveries} times and never settled"


def queue_of(message: Message) -> QueueRole | None:
    """Return the one queue that carries a message; `None` for a broadcast."""
    match message:
        case GenerateSteps():
            return WorkerRole(message.author)
        case ScoreSteps():
            return WorkerRole.PRM
        case StepsGenerated() | StepsScored() | WorkFailed() | WorkCancelled() | PrefixMissing() | WorkerSeen():
            return EVENTS
        case CancelWork() | ClockTold():
            return None
        case _:
            assert_never(message)


def decode_from(role: QueueRole, raw: bytes) -> Message:
    """Decode a message that was delivered from a queue.

    Raises:
        UndecodableMessage: It does not follow the contract, or another queue carries it. If a worker of another role
            carried out a command, the record would name an author who did not write the step.
    """
    message = decode(raw)
    queue = queue_of(message)
    if queue != role:
        carrier = "" if queue is None else f", but on that of {queue}"
        raise UndecodableMessage(raw, f"{message.kind} does not belong on this queue{carrier}", message)
    return message


def count_deliveries(message: KombuMessage) -> int:
    """Count the deliveries of a message, this one included.

    pgmq counts and leaves the limit to its readers. RabbitMQ enforces the limit itself, and its quorum queues report in
    a header how many deliveries ended without an acknowledgement.
    """
    info = message.delivery_info
    counted: int | None = info.get("pgmq_message", {}).get("read_ct")
    unsettled = _number(message, "x-delivery-count")
    return counted or 1 + max(unsettled, int(bool(info.get("redelivered"))))


def _number(message: KombuMessage, header: str) -> int:
    value = (message.headers or {}).get(header)
    return max(0, value) if isinstance(value, int) else 0


@dataclass(frozen=True, slots=True)
class Past:
    """What happened to a command before a delivery, also before it was published again."""

    runs: int = 0
    """Number of times that a worker may have begun it."""
    losses: int = 0
    """Number of times that its worker died, or lost the broker, before it had settled it."""
    alone: int = 0
    """Number of times that this happened while it ran alone."""
    is_marked: bool = False
    """Whether the worker that gets it runs it alone, or else puts it back without this mark."""

    @property
    def headers(self) -> Mapping[str, int]:
        """Headers that keep it when the command is published again; `past_of` reads them."""
        return {
            RUNS_HEADER: self.runs,
            LOSSES_HEADER: self.losses,
            ALONE_HEADER: self.alone,
            MARK_HEADER: int(self.is_marked),
        }


def past_of(message: KombuMessage, *, explained: int = 0) -> Past:
    """Return the past of a command that was delivered.

    Args:
        message: The command.
        explained: Number of deliveries that need not count as losses, because the worker lost its own connection so
            often. It explains only what the broker has counted since the command was published.
    """
    again = count_deliveries(message) - 1
    lost = max(0, again - explained)
    was_marked = bool(_number(message, MARK_HEADER))
    return Past(
        runs=_number(message, RUNS_HEADER) + again,
        losses=_number(message, LOSSES_HEADER) + lost,
        alone=_number(message, ALONE_HEADER) + int(was_marked and lost > 0),
        is_marked=was_marked and not lost,
    )


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An unusable message: its bytes as they arrived, and the reason."""

    role: QueueRole
    body: bytes
    reason: str
    signature: str | None = None
    """Signature with which it arrived, if it had one: it stays what it was when it is published again."""


@dataclass(frozen=True, slots=True)
class ReturnedCommand:
    """A command that a worker takes back to the queue of its role: its bytes as they arrived."""

    role: WorkerRole
    body: bytes
    past: Past = Past()


@dataclass(frozen=True, slots=True)
class ReplayedLetter:
    """A dead letter that an operator puts on its queue again, as if it had just been published there."""

    role: QueueRole
    body: bytes
    signature: str | None = None
    """Signature that the letter has; without it, a process with keys refuses the message again."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message with its address."""

    body: bytes
    exchange: str
    routing_key: str
    headers: Mapping[str, Any]
    is_broadcast: bool
    """Whether it may find no queue."""


class Topology:
    """The queues and exchanges of one deployment; the prefix keeps deployments on one broker apart."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._work = Exchange(prefix, type="direct", durable=True)
        self._dead = Exchange(f"{prefix}.dead", type="direct", durable=True)
        self.cancels = Exchange(f"{prefix}.cancels", type="fanout", durable=True)

    def queue(self, role: QueueRole) -> Queue:
        """Describe a role's queue; a broker ignores arguments that it does not know."""
        name = f"{self._prefix}.{role}"
        arguments = {
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": self._dead.name,
            "x-dead-letter-routing-key": f"{name}.dead",
            # At-least-once dead-lettering needs a queue that refuses when full rather than dropping its head.
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
        return Queue(name, self._work, routing_key=name, durable=True, queue_arguments=arguments)

    def dead_letters(self, role: QueueRole) -> Queue:
        """Describe the dead-letter queue of a role."""
        name = f"{self._prefix}.{role}.dead"
        return Queue(name, self._dead, routing_key=name, durable=True, queue_arguments={"x-queue-type": "quorum"})

    def cancel_queue(self, node: str, *, is_exclusive: bool) -> Queue:
        """Describe a worker process's private queue for cancels."""
        name = f"{self._prefix}.cancels.{node}"
        # RabbitMQ removes an exclusive queue with its connection; pgmq knows none. On RabbitMQ a worker may not be
        # permitted to declare the exchange.
        exchange = Exchange(self.cancels.name, type="fanout", durable=True, no_declare=is_exclusive)
        return Queue(name, exchange, durable=not is_exclusive, exclusive=is_exclusive, auto_delete=is_exclusive)

    def address(self, message: Message | DeadLetter | ReturnedCommand | ReplayedLetter) -> Outgoing:
        """Address a message of the contract, a dead letter, or a message that returns to its queue."""
        if isinstance(message, DeadLetter):
            headers = {REASON_HEADER: message.reason[:500], **_signed(message.signature)}
            dead = self.dead_letters(message.role).name
            return Outgoing(message.body, self._dead.name, dead, headers, is_broadcast=False)
        if isinstance(message, ReturnedCommand):
            return self._to_queue(message.role, message.body, {"task": COMMAND, **message.past.headers})
        if isinstance(message, ReplayedLetter):
            headers = {**_task(message.role), **_signed(message.signature)}
            return self._to_queue(message.role, message.body, headers)
        if (role := queue_of(message)) is None:
            return Outgoing(encode(message), self.cancels.name, "", {}, is_broadcast=True)
        return self._to_queue(role, encode(message), _task(role))

    def _to_queue(self, role: QueueRole, body: bytes, headers: Mapping[str, Any]) -> Outgoing:
        return Outgoing(body, self._work.name, f"{self._prefix}.{role}", headers, is_broadcast=False)

    @property
    def exchanges(self) -> Sequence[Exchange]:
        """All exchanges."""
        return self._work, self._dead, self.cancels

    @property
    def entities(self) -> Sequence[Exchange | Queue]:
        """All exchanges, then all queues but the private ones of workers; dead letters before those that send them."""
        return [*self.exchanges, *(queue for role in QUEUES for queue in (self.dead_letters(role), self.queue(role)))]

    def declare(self, channel: Any) -> None:
        """Declare everything on a channel; `Declarer` does so for users who may not, too."""
        for each in self.entities:
            each(channel).declare()

    def delete(self, connection: Connection) -> None:
        """Delete everything, with all messages, from RabbitMQ; pgmq's queues go with their database."""
        for each in reversed(self.entities):
            each(connection.default_channel).delete()


def _task(role: QueueRole) -> Mapping[str, str]:
    """Return the header that Celery needs of a command."""
    return {} if role == EVENTS else {"task": COMMAND}


def _signed(signature: str | None) -> Mapping[str, str]:
    return {} if signature is None else {SIGNATURE_HEADER: signature}
