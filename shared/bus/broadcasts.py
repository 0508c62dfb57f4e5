"""Broadcasts: every worker process hears every `CancelWork` and every `ClockTold`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from kombu.connection import Connection
from kombu.entity import Queue
from kombu.message import Message as KombuMessage
from kombu.messaging import Consumer

from shared.backoff import RECONNECT
from shared.bus.connection import HEARTBEAT_S, answering, broker_errors, close, connect, is_pgmq, unavailable
from shared.bus.signing import MessageKeys, raw, signature_of
from shared.bus.topology import Topology
from shared.errors import TrimError
from shared.heartbeats import silence_s
from shared.log import get_logger
from shared.messages import Broadcast, CancelWork, ClockTold, UndecodableMessage, decode
from shared.settings import Settings

_log = get_logger(__name__)


def forget_listeners(settings: Settings, nodes: Sequence[str]) -> None:
    """Delete the cancel queues of worker processes that are gone, where the broker does not do so itself.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    if not nodes or not is_pgmq(settings):
        return
    topology = Topology(settings.queue_prefix)
    connection = connect(settings)
    try:
        for node in nodes:
            queue = topology.cancel_queue(node, is_exclusive=False)(connection.default_channel)
            queue.declare()  # Kombu deletes only what it knows from this connection.
            queue.delete()
    except broker_errors(connection) as error:
        raise unavailable(error) from error
    finally:
        connection.release()


class BroadcastListener:
    """Receives broadcasts on a private queue, in its own thread.

    A missed cancel costs tokens and nothing else: results of an old epoch are never applied. The time is broadcast
    again with the next heartbeat of an orchestrator.
    """

    def __init__(self, settings: Settings, hear: Callable[[Broadcast], None]) -> None:
        """Start listening; `hear` runs in the listener's thread and must not block."""
        self._settings = settings
        self._hear = hear
        self._keys = MessageKeys.of(settings)
        self._attempt = 0
        self._heard_at = 0.0
        """When something was heard last, or the queue was bound, on the monotonic clock."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="broadcast-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and delete the queue."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                connection = connect(self._settings, heartbeat_s=HEARTBEAT_S)
                try:
                    self._listen(connection)
                except broker_errors(connection) as error:
                    raise unavailable(error) from error
                finally:
                    close(connection)
            except TrimError as error:
                delay_s = RECONNECT.delay_s(self._attempt)
                self._attempt += 1
                _log.debug("broadcast_listener_disconnected", code=error.code, retry_in_s=round(delay_s, 2))
                self._stopping.wait(delay_s)

    def _listen(self, connection: Connection) -> None:
        exclusive = not is_pgmq(self._settings)
        channel = connection.channel()
        queue = Topology(self._settings.queue_prefix).cancel_queue(self._settings.node_name, is_exclusive=exclusive)
        consumer = Consumer(channel, [queue], on_message=self._on_message, no_ack=True)
        consumer.consume()
        self._attempt, self._heard_at = 0, time.monotonic()
        try:
            while not self._stopping.is_set():
                connection.heartbeat_check()
                if exclusive and time.monotonic() - self._heard_at > silence_s(self._settings):
                    self._bind(connection, queue(channel))
                try:
                    connection.drain_events(timeout=0.5)
                except TimeoutError:
                    continue
        finally:
            # pgmq has no exclusive queues. If the process is killed instead, the queue is found again by its name when
            # the process restarts.
            if not exclusive and self._stopping.is_set():
                consumer.cancel()
                queue(channel).delete()

    def _bind(self, connection: Connection, queue: Queue) -> None:
        """Bind the queue again: an exchange that was deleted and declared again sends nothing to it."""
        with answering(connection):
            queue.queue_bind()
        self._heard_at = time.monotonic()

    def _on_message(self, message: KombuMessage) -> None:
        self._heard_at = time.monotonic()
        body = raw(message)
        if (flaw := self._keys.find_flaw(body, signature_of(message))) is not None:
            _log.warning("broadcast_dropped", reason=flaw)
            return
        try:
            heard = decode(body)
        except UndecodableMessage as error:
            _log.warning("broadcast_dropped", reason=error.reason)
            return
        if isinstance(heard, CancelWork | ClockTold):
            self._hear(heard)
