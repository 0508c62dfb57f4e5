"""Consuming in batches: what is there is taken together and acknowledged together. The orchestrator's side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from kombu.connection import Connection
from kombu.message import Message as KombuMessage
from kombu.messaging import Consumer

from shared.bus.connection import HEARTBEAT_S, BrokerUnavailable, broker_errors, close, connect, is_pgmq
from shared.bus.topology import QueueRole, Topology, count_deliveries
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it was delivered."""

    body: bytes
    is_redelivered: bool
    """Whether it was delivered before, to a process that did not acknowledge it."""
    deliveries: int
    """Number of deliveries, this one included, as far as the broker counts them for its consumers."""


@dataclass(frozen=True, slots=True)
class UnsettledDelivery(Delivery):
    """A delivery that waits for its acknowledgement."""

    message: KombuMessage


class BatchConsumer:
    """Takes messages from one queue, many at a time. For one thread, on a connection of its own."""

    def __init__(self, settings: Settings, role: QueueRole, *, batch: int, linger_s: float) -> None:
        """Connect and start to consume.

        Args:
            settings: Where the broker is.
            role: Whose queue to take from.
            batch: Most messages in one batch.
            linger_s: How long to wait for more once one message is there. Only done while the last batch held more
                than one: a bigger batch saves more than the wait costs when messages are many, and never when not.

        Raises:
            BrokerUnavailable: The broker does not answer.
        """
        self._batch = batch
        self._linger_s = linger_s
        self._received: list[KombuMessage] = []
        self._unsettled: list[KombuMessage] = []
        self._is_busy = False
        self._is_amqp = not is_pgmq(settings)
        self._connection: Connection = connect(settings, heartbeat_s=HEARTBEAT_S)
        try:
            topology = Topology(settings.queue_prefix)
            topology.declare(self._connection)
            channel = self._connection.channel()
            self._consumer = Consumer(
                channel, [topology.queue(role)], on_message=self._received.append, auto_declare=False
            )
            # Twice the batch, so that the next one is on its way while this one is worked on.
            self._consumer.qos(prefetch_count=2 * batch)
            self._consumer.consume()
        except broker_errors(self._connection) as error:
            close(self._connection)
            raise BrokerUnavailable from error

    def take(self, timeout_s: float) -> list[UnsettledDelivery]:
        """Wait for messages and take those that are there; an empty list if none came in time.

        Raises:
            BrokerUnavailable: The connection broke; what was taken and not acknowledged will be delivered again.
        """
        try:
            self._connection.heartbeat_check()
            self._drain(0 if self._received else timeout_s)
            linger_until = time.monotonic() + (self._linger_s if self._is_busy else 0)
            while 0 < len(self._received) < self._batch:
                # Not waiting takes what has arrived already; the shortest wait that a socket knows is a millisecond.
                if not self._drain(max(0, linger_until - time.monotonic())):
                    break
        except broker_errors(self._connection) as error:
            raise BrokerUnavailable from error
        self._is_busy = len(self._received) > 1
        taken, self._received[:] = self._received[: self._batch], self._received[self._batch :]
        self._unsettled += taken
        return [_delivery(message) for message in taken]

    def settle(self, deliveries: Sequence[UnsettledDelivery]) -> None:
        """Acknowledge messages whose effect is committed and whose consequences are published.

        Raises:
            BrokerUnavailable: The connection broke; they will be delivered again.
        """
        messages = [delivery.message for delivery in deliveries]
        try:
            if self._is_amqp and messages == self._unsettled[: len(messages)] and messages:
                messages[-1].ack(multiple=True)  # the oldest ones: one word settles all up to the last
            else:
                for message in messages:
                    message.ack()
        except broker_errors(self._connection) as error:
            raise BrokerUnavailable from error
        self._unsettled = [message for message in self._unsettled if message not in messages]

    def keep_alive(self) -> None:
        """Tell the broker that the consumer lives, and hear that the broker does; to be called every second or so.

        Raises:
            BrokerUnavailable: The connection broke; what was taken will be delivered again.
        """
        try:
            with suppress(TimeoutError):
                while self._is_amqp:  # What comes is bounded by the prefetch count; pgmq is asked when more is wanted.
                    self._connection.drain_events(timeout=0)
            self._connection.heartbeat_check()
        except broker_errors(self._connection) as error:
            raise BrokerUnavailable from error

    def close(self) -> None:
        """Give back what was not acknowledged, and disconnect."""
        close(self._connection, first=self._give_back)
        self._unsettled.clear()
        self._received.clear()

    def _give_back(self) -> None:
        # Unsubscribed first, or it would come straight back, and count as delivered once more. On RabbitMQ closing the
        # connection gives it back as well; on pgmq that takes until its visibility timeout is over.
        self._consumer.cancel()
        for message in self._unsettled + self._received:
            if not message.acknowledged:  # one whose acknowledgement failed counts as acknowledged here
                message.requeue()

    def _drain(self, timeout_s: float) -> bool:
        """Let one delivery (AMQP) or one bulk of them (pgmq) in; tell whether something came."""
        if len(self._received) >= self._batch:
            return True
        try:
            self._connection.drain_events(timeout=timeout_s)
        except TimeoutError:
            return False
        return True


def _delivery(message: KombuMessage) -> UnsettledDelivery:
    deliveries = count_deliveries(message)
    body = message.body
    return UnsettledDelivery(
        body=body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body),
        is_redelivered=deliveries > 1,
        deliveries=deliveries,
        message=message,
    )
