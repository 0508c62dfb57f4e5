"""The queues, as data: what each one carries, how it is reached, and where it leaves what it cannot use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.message import Message as KombuMessage

from shared.messages import (
    CancelWork,
    GenerateSteps,
    Message,
    ScoreSteps,
    StepsGenerated,
    StepsScored,
    WorkerSeen,
    WorkFailed,
    encode,
)

QueueRole = Literal["small", "large", "prm", "events"]
"""Who takes from a queue: the worker of that role, or (`events`) the orchestrator."""

QUEUES: Mapping[QueueRole, tuple[type[Message], ...]] = MappingProxyType(
    {
        "small": (GenerateSteps,),
        "large": (GenerateSteps,),
        "prm": (ScoreSteps,),
        "events": (StepsGenerated, StepsScored, WorkFailed, WorkerSeen),
    }
)
"""Every queue, and the kinds of messages that it carries. `CancelWork` is broadcast: each worker process binds a queue
of its own."""

COMMAND = "trim.command"
"""Celery's name of the one thing that workers do; each command message carries it as its `task` header."""

REASON_HEADER = "x-trim-reason"
"""On a message in a dead-letter queue: why it is there."""

DELIVERY_LIMIT = 20
"""Deliveries after which a message goes to the dead letters: it seems to kill every process that takes it."""


def count_deliveries(message: KombuMessage) -> int:
    """Count how often a message was delivered, this time included.

    pgmq counts and leaves the limit to whoever reads. RabbitMQ keeps to the limit itself and tells only whether this is
    the first time: 2 then stands for any number above 1.
    """
    info = message.delivery_info
    counted: int | None = info.get("pgmq_message", {}).get("read_ct")
    return counted or (2 if info.get("redelivered") else 1)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that cannot be used, its bytes as they came, and why."""

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
    """Whether nobody may be there to hear it."""


class Topology:
    """The queues and exchanges of one deployment; the prefix keeps deployments on one broker apart."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._work = Exchange(prefix, type="direct", durable=True)
        self._dead = Exchange(f"{prefix}.dead", type="direct", durable=True)
        self.cancels = Exchange(f"{prefix}.cancels", type="fanout", durable=True)

    def queue(self, role: QueueRole) -> Queue:
        """Describe a role's queue; arguments that a broker does not know are ignored by it."""
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
        """Describe the queue for what a role cannot use."""
        name = f"{self._prefix}.{role}.dead"
        return Queue(name, self._dead, routing_key=name, durable=True, queue_arguments={"x-queue-type": "quorum"})

    def cancel_queue(self, node: str, *, is_exclusive: bool) -> Queue:
        """Describe a worker process's own queue for cancels."""
        name = f"{self._prefix}.cancels.{node}"
        # RabbitMQ removes an exclusive queue with its connection; pgmq knows none.
        return Queue(name, self.cancels, durable=not is_exclusive, exclusive=is_exclusive, auto_delete=is_exclusive)

    def address(self, message: Message | DeadLetter) -> Outgoing:
        """Address a message of the contract, or one that is none."""
        match message:
            case DeadLetter():
                headers = {REASON_HEADER: message.reason[:500]}
                return Outgoing(
                    message.body, self._dead.name, self.dead_letters(message.role).name, headers, is_broadcast=False
                )
            case CancelWork():
                return Outgoing(encode(message), self.cancels.name, "", {}, is_broadcast=True)
            case GenerateSteps() | ScoreSteps():
                role = "prm" if isinstance(message, ScoreSteps) else message.role
                headers = {"task": COMMAND}
                return Outgoing(encode(message), self._work.name, f"{self._prefix}.{role}", headers, is_broadcast=False)
            case _:
                return Outgoing(encode(message), self._work.name, f"{self._prefix}.events", {}, is_broadcast=False)

    def declare(self, connection: Connection) -> None:
        """Declare everything, so that nothing that is published finds no queue."""
        channel = connection.default_channel
        self.cancels(channel).declare()
        for role in QUEUES:
            self.dead_letters(role)(channel).declare()
            self.queue(role)(channel).declare()

    def delete(self, connection: Connection) -> None:
        """Delete everything, with all messages, from RabbitMQ; pgmq's queues go with their database."""
        channel = connection.default_channel
        for role in QUEUES:
            self.queue(role)(channel).delete()
            self.dead_letters(role)(channel).delete()
        for exchange in (self._work, self._dead, self.cancels):
            exchange(channel).delete()
