"""Runs an orchestrator: `python -m services.orchestrator`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace

import psycopg

from services.orchestrator.applying import Outgoing, apply_deliveries
from services.orchestrator.sweeping import PRUNE_EVERY, SWEEP_LIMIT, admit, attend, prune, report_alive
from shared.bus.cancellations import forget_listeners
from shared.bus.connection import is_pgmq
from shared.bus.consumer import BatchConsumer, Delivery
from shared.bus.publisher import RECONNECT_DELAYS_S, Publisher
from shared.errors import RetryableError, explain
from shared.log import get_logger
from shared.process import run
from shared.settings import Settings
from shared.store.database import Database, DatabaseUnavailable, WakeUp
from shared.store.schema import check_schema

LINGER_S = 0.003
"""How long a batch waits for more events while the service is busy; one event alone never waits."""

TAKE_TIMEOUT_S = STOP_POLL_S = 0.5
"""How long a thread waits before it looks whether it is to stop."""

_log = get_logger(__name__)


class ThreadCrashed(RetryableError):
    """A thread of the process ended with an error that nobody foresaw; its log has the stack trace."""

    code = "thread_crashed"


class Orchestrator:
    """Three threads: events in batches as they come, the sweeper between them, and signs of life."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings.require_database_url(), is_retried=True)
        self._stopping = threading.Event()
        self._has_crashed = threading.Event()

    def run(self) -> None:
        """Orchestrate until SIGTERM or SIGINT; what was taken and not finished goes back to the broker.

        Raises:
            ThreadCrashed: A thread ended by an error; half an orchestrator would look alive and do half the work.
        """
        signal.signal(signal.SIGTERM, lambda *_: self._stopping.set())
        signal.signal(signal.SIGINT, lambda *_: self._stopping.set())
        is_pgmq(self._settings)  # A broker's URL that is missing or wrong is told before anything is begun.
        with closing(self._database):
            self._patiently(self._check_schema)
            others = [
                threading.Thread(target=self._guarded, args=(work,), name=name)
                for name, work in (("sweeper", self._sweep), ("life", self._show_life))
            ]
            for each in others:
                each.start()
            _log.info("orchestrator_started", window=self._settings.window)
            self._guarded(self._consume)
            for each in others:
                each.join()
        _log.info("orchestrator_stopped")
        if self._has_crashed.is_set():
            raise ThreadCrashed

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do something patiently; however it ends, the other threads end too."""
        try:
            self._patiently(work)
        except Exception:  # noqa: BLE001 - whatever it was, the process must not go on without this thread
            _log.exception("thread_crashed", thread=threading.current_thread().name)
            self._has_crashed.set()
        finally:
            self._stopping.set()

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
                self._back_off("server_awaited", error, attempt)

    def _back_off(self, what: str, error: RetryableError, attempt: int, **more: object) -> None:
        """Say what is waited for, and wait the longer the more attempts there were, or until told to stop."""
        delay = RECONNECT_DELAYS_S[min(attempt, len(RECONNECT_DELAYS_S) - 1)]
        _log.warning(what, code=error.code, detail=explain(error), retry_in_s=delay, **more)
        self._stopping.wait(delay)

    def _consume(self) -> None:
        """Take events, apply them, publish what follows, acknowledge: in this order, so that nothing is lost."""
        settings = self._settings
        with (
            closing(Publisher(settings)) as publisher,
            closing(BatchConsumer(settings, "events", batch=settings.batch_events, linger_s=LINGER_S)) as source,
        ):
            while not self._stopping.is_set():
                deliveries = source.take(TAKE_TIMEOUT_S)
                if deliveries:
                    self._publish(publisher, self._apply(source, deliveries))
                    source.settle(deliveries)

    def _apply(self, consumer: BatchConsumer, deliveries: Sequence[Delivery]) -> list[Outgoing]:
        """Apply messages, holding on to them while the database is away.

        Given back, they would come again at once and the broker would count it as one more delivery, up to its limit.
        """
        attempt = 0
        while True:
            try:
                return apply_deliveries(self._database, deliveries)
            except RetryableError as error:
                if self._stopping.is_set():
                    raise
                self._back_off("events_held", error, attempt, events=len(deliveries))
                consumer.keep_alive()
                attempt += 1
                # The connection may have broken after the commit: then their commands are still to be published.
                deliveries = [replace(each, is_redelivered=True) for each in deliveries]

    def _sweep(self) -> None:
        """Look for problems to start whenever there is a wake-up, and after all others at intervals."""
        next_look = 0.0
        next_prune = time.monotonic() + PRUNE_EVERY.total_seconds()
        with closing(Publisher(self._settings)) as publisher, closing(self._database.listen()) as listening:
            while not self._stopping.is_set():
                is_full = True
                while is_full:
                    admitted = admit(self._database, window=self._settings.window)
                    self._publish(publisher, admitted)
                    is_full = len(admitted) >= SWEEP_LIMIT
                if time.monotonic() >= next_look:
                    self._publish(publisher, attend(self._database))
                    next_look = time.monotonic() + self._settings.sweep_interval_s
                if time.monotonic() >= next_prune:
                    forget_listeners(self._settings, prune(self._database))
                    next_prune = time.monotonic() + PRUNE_EVERY.total_seconds()
                if self._wait_for_wake_up(listening, until=min(next_look, time.monotonic() + STOP_POLL_S)) == "cancel":
                    next_look = 0.0

    def _show_life(self) -> None:
        """Note at intervals that this process is up, and whether the broker answers it."""
        with closing(Publisher(self._settings)) as publisher:
            while not self._stopping.is_set():
                try:
                    publisher.check()
                    has_broker = True
                except RetryableError:
                    has_broker = False
                report_alive(self._database, name=self._settings.node_name, has_broker=has_broker)
                self._stopping.wait(self._settings.heartbeat_s)

    def _wait_for_wake_up(self, listening: psycopg.Connection[tuple[object, ...]], *, until: float) -> WakeUp:
        """Wait for a wake-up, or for the time of the next look; tell whether something is to be cancelled."""
        try:
            heard = listening.notifies(timeout=max(0.0, until - time.monotonic()), stop_after=1)
            return "cancel" if "cancel" in [each.payload for each in heard] else "admit"
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
                self._back_off("publication_failed", error, attempt, messages=len(outgoing))
                attempt += 1


if __name__ == "__main__":
    run(lambda settings: Orchestrator(settings).run(), role="orchestrator")
