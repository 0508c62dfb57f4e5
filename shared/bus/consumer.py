"""Consuming in batches for the orchestrator: messages are taken and acknowledged together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from kombu.connection import Connection
from kombu.message import Message as KombuMessage
from kombu.messaging import Consumer

from shared.bus.connection import answering, broker_errors, close, connect, is_pgmq, unavailable
from shared.bus.declaring import Declarer
from shared.bus.signing import raw, signature_of
from shared.bus.topology import QueueRole, Topology, count_deliveries
from shared.errors import TrimError
from shared.heartbeats import silence_s
from shared.settings import Settings

HEARTBEAT_S = 10
"""AMQP heartbeat of the connection, in seconds. A frozen orchestrator holds its events for two to three heartbeats, and
their problems wait. A batch takes milliseconds; one that waits for the database for 15 s may lose its events too."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it was delivered."""

    body: bytes
    is_redelivered: bool
    """Whether an earlier delivery was not acknowledged."""
    deliveries: int
    """Number of deliveries, this one included, as far as the broker reports it (see `count_deliveries`)."""
    signature: str | None = None
    """Its signature, if it has one."""


@dataclass(frozen=True, slots=True)
class UnsettledDelivery(Delivery):
    """A delivery that is not acknowledged yet."""

    message: KombuMessage = field(kw_only=True)


class BatchConsumer:
    """Takes batches of messages from one queue. For one thread, on its own connection."""

    def __init__(self, settings: Settings, role: QueueRole, *, batch: int, linger_s: float) -> None:
        """Connect and start to consume.

        Args:
            settings: Where the broker is.
            role: Whose queue to take from.
            batch: Maximum number of messages in one batch.
            linger_s: Seconds to wait for more messages after the first one. Applies only while the last batch held more
                than one: a larger batch saves more than the wait costs only when messages are frequent.

        Raises:
            BrokerUnavailable: The broker does not answer.
            QueuesMissing: It lacks queues that this process may not declare.
            BrokerRefused, QueueDiffers: A retry does not help.
        """
        self._batch = batch
        self._linger_s = linger_s
        self._received: list[KombuMessage] = []
        self._unsettled: list[KombuMessage] = []
        self._is_busy = False
        self._subscribed_after = 0  # The last message that arrived before the present subscription.
        self._is_amqp = not is_pgmq(settings)
        self._silence_s = silence_s(settings)
        self._arrived_at = time.monotonic()
        """When a message arrived last, or the subscription was made, on the monotonic clock."""
        self._connection: Connection = connect(settings, heartbeat_s=HEARTBEAT_S)
        try:
            self._consumer = self._subscribe(Topology(settings.queue_prefix), role)
        except broker_errors(self._connection) as error:
            close(self._connection)
            raise unavailable(error) from error
        except TrimError:
            close(self._connection)
            raise

    def _subscribe(self, topology: Topology, role: QueueRole) -> Consumer:
        Declarer(topology).declare(self._connection)
        consumer = Consumer(
            self._connection.channel(), [topology.queue(role)], on_message=self._received.append, auto_declare=False
        )
        # Twice the batch, so that the next batch arrives while this one is applied.
        consumer.qos(prefetch_count=2 * self._batch)
        consumer.consume()
        return consumer

    def take(self, timeout_s: float) -> list[UnsettledDelivery]:
        """Wait for messages and return those that have arrived; an empty list after the time-out.

        Raises:
            BrokerUnavailable: The connection broke; unacknowledged messages will be redelivered.
        """
        try:
            self._connection.heartbeat_check()
            is_idle = not self._received and not self._unsettled
            if self._is_amqp and is_idle and time.monotonic() - self._arrived_at > self._silence_s:
                self._subscribe_again()
            self._drain(0 if self._received else timeout_s)
            linger_until = time.monotonic() + (self._linger_s if self._is_busy else 0)
            while 0 < len(self._received) < self._batch:
                # Without a wait this takes what has already arrived; a socket's shortest wait is a millisecond.
                if not self._drain(max(0, linger_until - time.monotonic())):
                    break
        except broker_errors(self._connection) as error:
            raise unavailable(error) from error
        self._is_busy = len(self._received) > 1
        taken, self._received[:] = self._received[: self._batch], self._received[self._batch :]
        self._unsettled += taken
        return [_delivery(message) for message in taken]

    def settle(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge messages that `take` returned, whose effect is committed and whose commands are published.

        Raises:
            BrokerUnavailable: The connection broke; they will be redelivered.
        """
        messages = [each.message for each in deliveries if isinstance(each, UnsettledDelivery)]
        settled = set(map(id, messages))
        try:
            if self._is_amqp and messages == self._unsettled[: len(messages)] and messages:
                messages[-1].ack(multiple=True)  # the oldest ones: one frame acknowledges all up to the last
            else:
                for message in messages:
                    message.ack()
        except broker_errors(self._connection) as error:
            raise unavailable(error) from error
        self._unsettled = [message for message in self._unsettled if id(message) not in settled]

    def make_room(self) -> None:
        """Have the broker deliver more, although the caller leaves messages unsettled for long.

        RabbitMQ counts towards the prefetch count what a subscription has delivered, so a new one starts at 0. What the
        old one delivered stays unsettled. Call it when every other message that was taken is settled.

        Raises:
            BrokerUnavailable: The connection broke; unacknowledged messages will be redelivered.
        """
        try:
            if not self._is_amqp:
                self._consumer.qos(prefetch_count=2 * self._batch + len(self._unsettled))
            elif sum(each.delivery_tag > self._subscribed_after for each in self._unsettled) >= self._batch:
                self._subscribe_again()
        except broker_errors(self._connection) as error:
            raise unavailable(error) from error

    def _subscribe_again(self) -> None:
        """Make a new subscription. What the present one delivered stays as it is.

        RabbitMQ does not always tell a consumer that its queue was deleted, if it is declared again at that moment.
        """
        with answering(self._connection):
            self._consumer.cancel()
            arrived = (each.delivery_tag for each in self._unsettled + self._received)
            self._subscribed_after = max(arrived, default=self._subscribed_after)
            self._consumer.consume()
        self._arrived_at = time.monotonic()

    def keep_alive(self) -> None:
        """Exchange heartbeats with the broker; call it about once a second.

        Raises:
            BrokerUnavailable: The connection broke; unacknowledged messages will be redelivered.
        """
        try:
            with suppress(TimeoutError):
                while self._is_amqp:  # The prefetch count bounds what arrives; pgmq delivers only on request.
                    self._connection.drain_events(timeout=0)
            self._connection.heartbeat_check()
        except broker_errors(self._connection) as error:
            raise unavailable(error) from error

    def close(self) -> None:
        """Requeue unacknowledged messages, and disconnect."""
        close(self._connection, first=self._requeue)
        self._unsettled.clear()
        self._received.clear()

    def _requeue(self) -> None:
        # Unsubscribe first, or the messages would be redelivered here and count as delivered once more. RabbitMQ
        # requeues them when the connection closes; pgmq does so only after the visibility timeout.
        self._consumer.cancel()
        for message in self._unsettled + self._received:
            if not message.acknowledged:  # a message whose acknowledgement failed counts as acknowledged here
                message.requeue()

    def _drain(self, timeout_s: float) -> bool:
        """Receive one delivery (AMQP) or one bulk of them (pgmq); return whether something arrived."""
        if len(self._received) >= self._batch:
            return True
        try:
            self._connection.drain_events(timeout=timeout_s)
        except TimeoutError:
            return False
        self._arrived_at = time.monotonic()
        return True


def _delivery(message: KombuMessage) -> UnsettledDelivery:
    deliveries = count_deliveries(message)
    return UnsettledDelivery(
        body=raw(message),
        is_redelivered=deliveries > 1,
        deliveries=deliveries,
        signature=signature_of(message),
        message=message,
    )
