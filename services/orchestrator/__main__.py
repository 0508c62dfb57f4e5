"""Runs an orchestrator: `python -m services.orchestrator`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg

from services.orchestrator.applying import Outgoing, apply_deliveries
from services.orchestrator.sweeping import PRUNE_EVERY, admit, attend, prune, report_alive
from shared.bus.consumer import BatchConsumer
from shared.bus.publisher import RECONNECT_DELAYS_S, Publisher
from shared.errors import RetryableError
from shared.log import get_logger
from shared.process import run
from shared.settings import Settings
from shared.store.database import Database, DatabaseUnavailable
from shared.store.schema import check_schema

LINGER_S = 0.003
"""How long a batch waits for more events while the service is busy; one event alone never waits."""

TAKE_TIMEOUT_S = 0.5

_log = get_logger(__name__)


class Orchestrator:
    """Two threads: events in batches as they come, and the sweeper between them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings.require_database_url())
        self._stopping = threading.Event()

    def run(self) -> None:
        """Orchestrate until SIGTERM or SIGINT; what was taken and not finished goes back to the broker."""
        signal.signal(signal.SIGTERM, lambda *_: self._stopping.set())
        signal.signal(signal.SIGINT, lambda *_: self._stopping.set())
        self._patiently(self._check_schema)
        sweeper = threading.Thread(target=self._patiently, args=(self._sweep,), name="sweeper")
        sweeper.start()
        _log.info("orchestrator_started", window=self._settings.window)
        self._patiently(self._consume)
        sweeper.join()
        self._database.close()
        _log.info("orchestrator_stopped")

    def _check_schema(self) -> None:
        with self._database.begin() as connection:
            check_schema(connection)

    def _patiently(self, work: Callable[[], None]) -> None:
        """Do something until it ends by itself, beginning anew, with back-off, whenever a server goes away."""
        attempt = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                work()
                return
            except RetryableError as error:
                attempt = 0 if time.monotonic() - began > RECONNECT_DELAYS_S[-1] else attempt + 1
                delay = RECONNECT_DELAYS_S[min(attempt, len(RECONNECT_DELAYS_S) - 1)]
                _log.warning("server_awaited", code=error.code, detail=str(error), retry_in_s=delay)
                self._stopping.wait(delay)

    def _consume(self) -> None:
        """Take events, apply them, publish what follows, acknowledge: in this order, so that nothing is lost."""
        publisher = Publisher(self._settings)
        consumer = BatchConsumer(self._settings, "events", batch=self._settings.batch_events, linger_s=LINGER_S)
        try:
            while not self._stopping.is_set():
                deliveries = consumer.take(TAKE_TIMEOUT_S)
                if deliveries:
                    self._publish(publisher, apply_deliveries(self._database, deliveries))
                    consumer.settle(deliveries)
        finally:
            consumer.close()
            publisher.close()

    def _sweep(self) -> None:
        """Look after problems whenever there is a wake-up, and at least once in an interval."""
        publisher = Publisher(self._settings)
        listening = self._database.listen()
        next_alive, next_prune = 0.0, time.monotonic() + PRUNE_EVERY.total_seconds()
        try:
            while not self._stopping.is_set():
                if time.monotonic() >= next_alive:
                    report_alive(self._database, name=self._settings.node_name)
                    next_alive = time.monotonic() + self._settings.heartbeat_s
                if time.monotonic() >= next_prune:
                    prune(self._database)
                    next_prune = time.monotonic() + PRUNE_EVERY.total_seconds()
                self._publish(publisher, attend(self._database))
                while outgoing := admit(self._database, window=self._settings.window):
                    self._publish(publisher, outgoing)
                self._wait_for_wake_up(listening)
        finally:
            publisher.close()
            with suppress(psycopg.Error):
                listening.close()

    def _wait_for_wake_up(self, listening: psycopg.Connection[tuple[object, ...]]) -> None:
        try:
            for _ in listening.notifies(timeout=self._settings.sweep_interval_s, stop_after=1):
                pass
        except psycopg.Error as error:
            raise DatabaseUnavailable from error

    def _publish(self, publisher: Publisher, outgoing: list[Outgoing]) -> None:
        """Publish what was committed, waiting for a broker that is away; its loss would only be made good when due."""
        attempt = 0
        while True:
            try:
                publisher.publish(outgoing)
                return
            except RetryableError as error:
                if self._stopping.is_set():
                    raise  # Nothing is acknowledged: the events come again, to whoever is up then.
                delay = RECONNECT_DELAYS_S[min(attempt, len(RECONNECT_DELAYS_S) - 1)]
                attempt += 1
                _log.warning("publication_failed", code=error.code, messages=len(outgoing), retry_in_s=delay)
                self._stopping.wait(delay)


if __name__ == "__main__":
    run(lambda settings: Orchestrator(settings).run(), role="orchestrator")
