"""Publishing: a message counts as published once the broker has confirmed it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from kombu.connection import Connection
from kombu.messaging import Producer

from shared.backoff import RECONNECT
from shared.bus.connection import BrokerBlocked, BrokerUnavailable, broker_errors, close, connect, unavailable
from shared.bus.declaring import Declarer
from shared.bus.signing import MessageKeys
from shared.bus.topology import BURIED_HEADER, DeadLetter, Outgoing, ReplayedLetter, ReturnedCommand, Topology
from shared.clock import SYSTEM_CLOCK
from shared.errors import RetryableError, TrimError, explain
from shared.log import get_logger
from shared.messages import Message
from shared.observe import metrics
from shared.settings import Settings

CONFIRM_TIMEOUT_S = 10.0
"""Seconds after which a broker that has not confirmed counts as unavailable."""

Publishable = Message | DeadLetter | ReturnedCommand | ReplayedLetter

_log = get_logger(__name__)


class Unroutable(RetryableError):
    """The broker has no queue for the message; the queues are declared again before the next attempt."""

    code = "unroutable"


class Publisher:
    """Publishes from one thread, on its own connection.

    Confirms are pipelined: the publisher writes a sequence of messages at once and then waits for all confirms, instead
    of one round trip for each message.
    """

    def __init__(self, settings: Settings, declarer: Declarer | None = None) -> None:
        self._settings = settings
        self._topology = Topology(settings.queue_prefix)
        self._declarer = declarer or Declarer(self._topology)
        self._keys = MessageKeys.of(settings)
        self._connection: Connection | None = None
        self._producer: Producer | None = None
        self._has_confirms = False
        self._published = 0
        self._unconfirmed: set[int] = set()
        self._refusals: list[str] = []
        self._is_blocked = False

    def publish(self, messages: Sequence[Publishable]) -> None:
        """Publish messages in order and return once the broker has confirmed all of them.

        Raises:
            BrokerUnavailable: The broker is unreachable or the connection broke; any of the messages may have arrived.
            BrokerBlocked: It accepts no messages at present.
            Unroutable: The broker has no queue for one of them; the others have arrived.
            QueuesMissing: The broker has lost queues that this process may not declare.
            BrokerRefused, QueueDiffers: Settings, permissions or queues were changed; a retry does not help.
        """
        if not messages:
            return
        with metrics.PUBLICATION_FAILURES.count_exceptions():
            self._publish(messages)
        for message in messages:
            if isinstance(message, DeadLetter):
                metrics.DEAD_LETTERS[message.role].inc()

    def _publish(self, messages: Sequence[Publishable]) -> None:
        connection, producer = self._connected()
        try:
            for outgoing in map(self._address, messages):
                producer.publish(
                    outgoing.body,
                    exchange=outgoing.exchange,
                    routing_key=outgoing.routing_key,
                    headers=dict(outgoing.headers),
                    content_type="application/json",
                    content_encoding="binary",
                    delivery_mode=2,
                    mandatory=not outgoing.is_broadcast,
                )
                if self._has_confirms:
                    self._published += 1
                    self._unconfirmed.add(self._published)
            while self._unconfirmed and not self._is_blocked:
                connection.drain_events(timeout=CONFIRM_TIMEOUT_S)
        except broker_errors(connection) as error:
            self.close()
            raise unavailable(error) from error
        if self._unconfirmed:
            self.close()
            raise BrokerBlocked
        if self._refusals:
            reason = self._refusals[0]
            self.close()
            raise Unroutable(f"The broker refused a message: {reason}.")

    def _address(self, message: Publishable) -> Outgoing:
        outgoing = self._topology.address(message)
        if isinstance(message, ReplayedLetter):  # It keeps its signature: a replay makes nothing valid.
            return outgoing
        if isinstance(message, DeadLetter):
            more: Mapping[str, str] = {BURIED_HEADER: SYSTEM_CLOCK.now().isoformat()}
        else:
            more = self._keys.sign(outgoing.body)
        return replace(outgoing, headers={**outgoing.headers, **more}) if more else outgoing

    def close(self) -> None:
        """Close the connection; the next publication opens another."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            close(connection)

    def check(self) -> None:
        """Find out whether the broker answers and has the queues.

        Raises:
            BrokerUnavailable: It does not answer.
            QueuesMissing: It has lost queues that this process may not declare.
            BrokerRefused, QueueDiffers: A retry does not help.
        """
        connection, _ = self._connected()
        try:
            self._declarer.declare(connection)
        except broker_errors(connection) as error:
            self.close()
            raise unavailable(error) from error

    def _connected(self) -> tuple[Connection, Producer]:
        if self._connection is not None and self._producer is not None:
            return self._connection, self._producer
        connection = connect(self._settings, on_blocked=self._on_blocked, on_unblocked=self._on_unblocked)
        try:
            self._declarer.declare(connection)
            channel = connection.channel()
            self._published, self._unconfirmed, self._refusals, self._is_blocked = 0, set(), [], False
            # pgmq needs none: a publication is a committed INSERT when the call returns.
            self._has_confirms = connection.transport.driver_type == "amqp"
            if self._has_confirms:
                channel.confirm_select()
                channel.events["basic_ack"].add(self._on_confirm)
                channel.events["basic_nack"].add(self._on_nack)
                channel.events["basic_return"].add(self._on_return)
        except broker_errors(connection) as error:
            close(connection)
            raise unavailable(error) from error
        except TrimError:
            close(connection)
            raise
        self._connection, self._producer = connection, Producer(channel, auto_declare=False)
        return self._connection, self._producer

    def _on_confirm(self, delivery_tag: int, multiple: bool) -> None:  # noqa: FBT001 - amqp calls it so
        done = {tag for tag in self._unconfirmed if tag <= delivery_tag} if multiple else {delivery_tag}
        self._unconfirmed -= done

    def _on_nack(self, delivery_tag: int, multiple: bool) -> None:  # noqa: FBT001 - amqp calls it so
        self._refusals.append("a queue is full")
        self._on_confirm(delivery_tag, multiple)

    def _on_blocked(self) -> None:
        self._is_blocked = True

    def _on_unblocked(self) -> None:
        self._is_blocked = False

    def _on_return(self, error: Exception, exchange: str, routing_key: str, _message: Any) -> None:
        self._refusals.append(f"no queue for {routing_key} at {exchange} ({type(error).__name__})")


class SharedPublisher:
    """Publishes for many threads from one background thread, and retries while the broker is unreachable.

    Messages that arrive while a confirm is pending are published together.
    """

    def __init__(self, settings: Settings, declarer: Declarer | None = None) -> None:
        self._publisher = Publisher(settings, declarer)
        self.failure: TrimError | None = None
        """Why the last attempt failed; `None` if it succeeded."""
        self._inbox: queue.SimpleQueue[tuple[Sequence[Publishable], Future[None]] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._closing = threading.Lock()
        """Held to queue messages, and to close: nothing is queued behind the end."""
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def publish(self, *messages: Publishable) -> Future[None]:
        """Publish messages; the future is done when the broker has confirmed them, or when the publisher closes."""
        done: Future[None] = Future()
        with self._closing:
            if not self._stopping.is_set():
                self._inbox.put((messages, done))
                return done
        done.set_exception(BrokerUnavailable("The publisher is closed."))
        return done

    def close(self) -> None:
        """Publish what is queued, if the broker is reachable, and stop; futures of unpublished messages fail."""
        with self._closing:
            self._stopping.set()
            self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            entries = [self._inbox.get()]
            while not self._inbox.empty():
                entries.append(self._inbox.get())
            is_open = None not in entries
            handed_in = [entry for entry in entries if entry is not None]
            error = self._send([message for messages, _ in handed_in for message in messages])
            for _, done in handed_in:
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)
        self._publisher.close()

    def _send(self, messages: Sequence[Publishable]) -> TrimError | None:
        attempt = 0
        while True:
            try:
                self._publisher.publish(messages)
            except TrimError as error:  # Celery's connection ends the process if a retry does not help.
                self.failure = error
                delay_s = RECONNECT.delay_s(attempt)
                attempt += 1
                _log.warning(
                    "publication_failed",
                    code=error.code,
                    detail=explain(error),
                    attempt=attempt,
                    retry_in_s=round(delay_s, 2),
                )
                if self._stopping.wait(delay_s):
                    return error
            except Exception as error:  # noqa: BLE001 - if this thread ended, every command of the process would wait for ever
                _log.exception("publication_crashed")
                self._publisher.close()
                return BrokerUnavailable(f"The publication failed ({type(error).__name__}).")
            else:
                self.failure = None
                return None
