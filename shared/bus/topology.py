"""The queues as data: what each one carries, how it is addressed, and where its dead letters go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, assert_never

from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.message import Message as KombuMessage

from shared.domain.roles import WorkerRole
from shared.messages import (
    CancelWork,
    Command,
    GenerateSteps,
    Message,
    ScoreSteps,
    StepsGenerated,
    StepsScored,
    WorkCancelled,
    WorkerSeen,
    WorkFailed,
    encode,
)

EVENTS: Final = "events"
"""The orchestrator's queue."""

QueueRole = WorkerRole | Literal["events"]
"""Consumer of a queue: the workers of a role, or the orchestrator."""

QUEUES: Mapping[QueueRole, tuple[type[Message], ...]] = MappingProxyType(
    {
        WorkerRole.SMALL: (GenerateSteps,),
        WorkerRole.LARGE: (GenerateSteps,),
        WorkerRole.PRM: (ScoreSteps,),
        EVENTS: (StepsGenerated, StepsScored, WorkFailed, WorkCancelled, WorkerSeen),
    }
)
"""Every queue, and the kinds of messages that it carries. `CancelWork` is broadcast: each worker process binds its own
queue."""

COMMAND = "trim.command"
"""Celery's name of the one task that workers have; each command carries it in its `task` header."""

REASON_HEADER = "x-trim-reason"
"""Header of a dead letter: the reason why it is there."""

DELIVERY_LIMIT = 20
"""Deliveries after which a message becomes a dead letter: it may crash every process that takes it."""


def queue_of(command: Command) -> WorkerRole:
    """Return the role whose workers carry out a command."""
    return WorkerRole.PRM if isinstance(command, ScoreSteps) else WorkerRole(command.author)


def count_deliveries(message: KombuMessage) -> int:
    """Count the deliveries of a message, this one included.

    pgmq counts and leaves the limit to its readers. RabbitMQ enforces the limit itself and reports only whether the
    message was redelivered: 2 then stands for any number above 1.
    """
    info = message.delivery_info
    counted: int | None = info.get("pgmq_message", {}).get("read_ct")
    return counted or (2 if info.get("redelivered") else 1)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An unusable message: its bytes as they arrived, and the reason."""

    role: QueueRole
    body: bytes
    reason: str


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

    def address(self, message: Message | DeadLetter) -> Outgoing:
        """Address a message of the contract, or a dead letter."""
        match message:
            case DeadLetter():
                headers = {REASON_HEADER: message.reason[:500]}
                return Outgoing(
                    message.body, self._dead.name, self.dead_letters(message.role).name, headers, is_broadcast=False
                )
            case CancelWork():
                return Outgoing(encode(message), self.cancels.name, "", {}, is_broadcast=True)
            case GenerateSteps() | ScoreSteps():
                headers = {"task": COMMAND}
                return self._to_queue(queue_of(message), encode(message), headers)
            case StepsGenerated() | StepsScored() | WorkFailed() | WorkCancelled() | WorkerSeen():
                return self._to_queue(EVENTS, encode(message), {})
            case _:
                assert_never(message)

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
