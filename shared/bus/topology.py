"""The queues, as data: what each one carries, how it is reached, and where it leaves what it cannot use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kombu.connection import Connection
from kombu.entity import Exchange, Queue

from shared.messages import (
    CancelWork,
    Event,
    GenerateSteps,
    Message,
    ScoreSteps,
    StepsGenerated,
    StepsScored,
    WorkerSeen,
    WorkFailed,
    encode,
)

COMMAND = "trim.command"
"""Celery's name of the one thing that workers do; each command message carries it as its `task` header."""

REASON_HEADER = "x-trim-reason"
"""On a message in a dead-letter queue: why it is there."""

DELIVERY_LIMIT = 20
"""Deliveries after which RabbitMQ itself gives up on a message: it kills every process that takes it."""

WORK = Exchange("trim", type="direct", durable=True)
DEAD = Exchange("trim.dead", type="direct", durable=True)
CANCELS = Exchange("trim.cancels", type="fanout", durable=True)
"""Broadcast: each worker process binds a queue of its own."""


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """One queue."""

    name: str
    carries: tuple[type[Message], ...]

    @property
    def dead_letters(self) -> str:
        """Name of the queue for messages that cannot be used."""
        return f"{self.name}.dead"

    def declaration(self) -> Queue:
        """Describe the queue to the broker; arguments that a broker does not know are ignored by it."""
        arguments = {
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": DEAD.name,
            "x-dead-letter-routing-key": self.dead_letters,
            # At-least-once dead-lettering needs a queue that refuses when full rather than dropping its head.
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
        return Queue(self.name, WORK, routing_key=self.name, durable=True, queue_arguments=arguments)

    def dead_declaration(self) -> Queue:
        """Describe the dead-letter queue to the broker."""
        arguments = {"x-queue-type": "quorum"}
        return Queue(self.dead_letters, DEAD, routing_key=self.dead_letters, durable=True, queue_arguments=arguments)


SMALL = QueueSpec("trim.small", (GenerateSteps,))
LARGE = QueueSpec("trim.large", (GenerateSteps,))
PRM = QueueSpec("trim.prm", (ScoreSteps,))
EVENTS = QueueSpec("trim.events", (StepsGenerated, StepsScored, WorkFailed, WorkerSeen))

QUEUES: Mapping[str, QueueSpec] = {"small": SMALL, "large": LARGE, "prm": PRM, "events": EVENTS}
"""By the role that takes from it; `events` is the orchestrator's."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message with its address."""

    body: bytes
    exchange: str
    routing_key: str
    headers: Mapping[str, Any]
    is_broadcast: bool = False
    """Whether nobody may be there to hear it."""


def address(message: Message) -> Outgoing:
    """Address a message of the contract."""
    match message:
        case GenerateSteps():
            queue = QUEUES[message.role]
        case ScoreSteps():
            queue = PRM
        case CancelWork():
            return Outgoing(encode(message), CANCELS.name, "", {}, is_broadcast=True)
        case _:
            return _to_queue(EVENTS, message, {})
    return _to_queue(queue, message, {"task": COMMAND, "id": str(message.id)})


def address_dead(queue: QueueSpec, body: bytes, reason: str) -> Outgoing:
    """Address a message that cannot be used to its queue's dead letters, its bytes as they came."""
    return Outgoing(body, DEAD.name, queue.dead_letters, {REASON_HEADER: reason[:500]})


def _to_queue(queue: QueueSpec, message: Event | GenerateSteps | ScoreSteps, headers: Mapping[str, Any]) -> Outgoing:
    return Outgoing(encode(message), WORK.name, queue.name, headers)


def declare(connection: Connection) -> None:
    """Declare all queues, so that nothing that is published finds no queue."""
    channel = connection.default_channel
    CANCELS(channel).declare()
    for queue in QUEUES.values():
        queue.dead_declaration()(channel).declare()
        queue.declaration()(channel).declare()
