"""Cancelling work that runs: each worker process hears every `CancelWork` and knows what it has running."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from kombu.connection import Connection
from kombu.message import Message as KombuMessage
from kombu.messaging import Consumer

from shared.bus.connection import HEARTBEAT_S, BrokerUnavailable, broker_errors, close, connect, is_pgmq
from shared.bus.publisher import RECONNECT_DELAYS_S
from shared.bus.topology import Topology
from shared.engines.port import Cancellation
from shared.log import get_logger
from shared.messages import CancelWork, UndecodableMessage, decode
from shared.settings import Settings

REMEMBERED = 10_000
"""Cancelled problems that a process remembers, for commands that it takes after the cancel."""

_log = get_logger(__name__)


class RunningWork:
    """What a worker process has running, by problem and epoch. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Cancellation, tuple[UUID, int]] = {}
        self._oldest_wanted: OrderedDict[UUID, int] = OrderedDict()

    @contextmanager
    def track(self, problem_id: UUID, epoch: int) -> Iterator[Cancellation]:
        """Note that work runs for as long as the block does; its cancellation may be set from the start."""
        cancellation = Cancellation()
        with self._lock:
            self._running[cancellation] = (problem_id, epoch)
            if epoch < self._oldest_wanted.get(problem_id, 0):
                cancellation.cancel()
        try:
            yield cancellation
        finally:
            with self._lock:
                del self._running[cancellation]

    def cancel(self, problem_id: UUID, *, before_epoch: int) -> None:
        """Cancel a problem's work of older epochs, now and when it comes later."""
        with self._lock:
            self._oldest_wanted[problem_id] = max(before_epoch, self._oldest_wanted.pop(problem_id, 0))
            while len(self._oldest_wanted) > REMEMBERED:
                self._oldest_wanted.popitem(last=False)
            for cancellation, (running_id, epoch) in self._running.items():
                if running_id == problem_id and epoch < before_epoch:
                    cancellation.cancel()

    def cancel_all(self) -> None:
        """Cancel everything that runs."""
        with self._lock:
            for cancellation in self._running:
                cancellation.cancel()

    @property
    def count(self) -> int:
        """How much is running."""
        with self._lock:
            return len(self._running)


def forget_listeners(settings: Settings, nodes: Sequence[str]) -> None:
    """Remove the cancel queues of worker processes that are gone for good, where the broker does not do it itself.

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
        raise BrokerUnavailable from error
    finally:
        connection.release()


class CancelListener:
    """Hears the broadcast of cancels on a queue of the process's own, from a thread of its own.

    A missed cancel costs tokens and nothing else: what it was about is of an old epoch.
    """

    def __init__(self, settings: Settings, running: RunningWork) -> None:
        self._settings = settings
        self._running = running
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cancel-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and remove the queue."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            try:
                connection = connect(self._settings, heartbeat_s=HEARTBEAT_S)
                attempt = 0
                try:
                    self._listen(connection)
                except broker_errors(connection) as error:
                    raise BrokerUnavailable from error
                finally:
                    close(connection)
            except BrokerUnavailable as error:
                delay = RECONNECT_DELAYS_S[min(attempt, len(RECONNECT_DELAYS_S) - 1)]
                attempt += 1
                _log.debug("cancel_listener_disconnected", code=error.code, retry_in_s=delay)
                self._stopping.wait(delay)

    def _listen(self, connection: Connection) -> None:
        exclusive = not is_pgmq(self._settings)
        channel = connection.channel()
        queue = Topology(self._settings.queue_prefix).cancel_queue(self._settings.node_name, is_exclusive=exclusive)
        consumer = Consumer(channel, [queue], on_message=self._on_message, no_ack=True)
        consumer.consume()
        try:
            while not self._stopping.is_set():
                connection.heartbeat_check()
                try:
                    connection.drain_events(timeout=0.5)
                except TimeoutError:
                    continue
        finally:
            # Where the broker does not remove the queue it is removed here; if the process is killed instead, it is
            # found again by its name when the process is started anew.
            if not exclusive and self._stopping.is_set():
                consumer.cancel()
                queue(channel).delete()

    def _on_message(self, message: KombuMessage) -> None:
        try:
            cancel = decode(message.body)
        except UndecodableMessage as error:
            _log.warning("cancel_dropped", reason=error.reason)
            return
        if isinstance(cancel, CancelWork):
            self._running.cancel(cancel.problem_id, before_epoch=cancel.epoch)
