"""The orchestrator process: consumes events, sweeps between them, and sends heartbeats."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace

import psycopg

from services.orchestrator.applying import Outgoing, apply_deliveries
from services.orchestrator.counting import count_pruned
from services.orchestrator.housekeeping import PRUNE_EVERY, OpenProblems, prune, report_liveness
from services.orchestrator.policy_cache import PolicyCache
from services.orchestrator.sweeping import Sweep, admit, attend
from shared.backoff import RECONNECT
from shared.bus.cancellations import forget_listeners
from shared.bus.connection import check_broker
from shared.bus.consumer import BatchConsumer, Delivery
from shared.bus.declaring import QueueDiffers
from shared.bus.publisher import Publisher
from shared.clock import SYSTEM_CLOCK
from shared.errors import RefusedError, RetryableError, explain
from shared.log import get_logger
from shared.observe import metrics
from shared.observe.health import Health, LoopBeat
from shared.settings import Settings
from shared.store.compatibility import CodeOutdated
from shared.store.database import Database, DatabaseUnavailable, WakeUp
from shared.store.reasoning_state import PostgresStore
from shared.store.watching import CONDITIONS as DATABASE_CONDITIONS
from shared.store.watching import watch_database

LINGER_S = 0.003
"""Seconds that a batch waits for more events while the service is busy; a single event never waits."""

CONDITIONS = (*DATABASE_CONDITIONS, "broker")
"""What an orchestrator needs to be ready."""

LOOP_LIMIT_S = 180.0
"""Seconds without a round after which a thread counts as stalled. A round waits for several statements, connections and
confirms in turn, each with a time-out of at most 30 s; a server that is away stalls no thread."""

TAKE_TIMEOUT_S = STOP_POLL_S = 0.5
"""Seconds that a thread waits before it checks whether to stop."""

_log = get_logger(__name__)


class ThreadCrashed(RetryableError):
    """A thread of the process crashed; its log has the stack trace."""

    code = "thread_crashed"


_EVENTS_WORK = metrics.STAGE_WORK_SECONDS.labels("events")


class _Thread(threading.local):
    """What belongs to the current thread."""

    def __init__(self, loop: LoopBeat) -> None:
        self.loop = loop
        """Beat of its loop; by default that of the main thread, which consumes."""


class Orchestrator:
    """Three threads: one consumes events in batches, one sweeps between them, one sends heartbeats."""

    def __init__(self, settings: Settings, health: Health) -> None:
        self._settings = settings
        self._health = health
        self._database = Database(settings.require_database_url(), is_retried=True)
        self._store = PostgresStore(self._database)
        self._policies = PolicyCache(self._store, shadow_time_s=settings.shadow_time_ms / 1000)
        self._stopping = threading.Event()
        self._has_crashed = threading.Event()
        self._failure: RefusedError | QueueDiffers | None = None
        self._open_problems = OpenProblems(self._database)
        metrics.ADMISSION_WINDOW.set(settings.window)
        self._this = _Thread(health.loop("consumer", limit_s=LOOP_LIMIT_S))

    def run(self) -> None:
        """Orchestrate until SIGTERM or SIGINT; unacknowledged events return to the broker.

        Raises:
            ThreadCrashed: A thread crashed. The others stop too: half an orchestrator would look alive.
            RefusedError, QueueDiffers: Settings or queues have to be changed; waiting does not help.
        """
        signal.signal(signal.SIGTERM, lambda *_: self._stopping.set())
        signal.signal(signal.SIGINT, lambda *_: self._stopping.set())
        check_broker(self._settings)
        with closing(self._database):
            self._reconnecting(lambda: watch_database(self._database, self._health, every_s=self._settings.heartbeat_s))
            if self._stopping.is_set():
                return
            others = [
                threading.Thread(target=self._run_thread, args=(work,), name=name)
                for name, work in (("sweeper", self._sweep), ("liveness", self._report_liveness))
            ]
            for each in others:
                each.start()
            _log.info("orchestrator_started", window=self._settings.window)
            self._guarded(self._consume)
            for each in others:
                each.join()
        _log.info("orchestrator_stopped")
        if self._failure is not None:
            raise self._failure
        if self._has_crashed.is_set():
            raise ThreadCrashed

    def _run_thread(self, work: Callable[[], None]) -> None:
        """Run one of the other threads, and watch its loop."""
        limit_s = LOOP_LIMIT_S + self._settings.heartbeat_s
        self._this.loop = self._health.loop(threading.current_thread().name, limit_s=limit_s)
        self._guarded(work)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run a thread's work; however it ends, the other threads stop too."""
        try:
            self._reconnecting(work)
        except (RefusedError, QueueDiffers) as error:  # The process ends with this sentence, without a stack trace.
            self._failure = error
        except Exception:  # noqa: BLE001 - the process must not go on without this thread
            _log.exception("thread_crashed", thread=threading.current_thread().name)
            self._has_crashed.set()
        finally:
            self._this.loop.pause()
            self._stopping.set()

    def _reconnecting(self, work: Callable[[], None]) -> None:
        """Run work until it returns; restart it with back-off whenever a server is unavailable."""
        attempt = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            self._this.loop.beat()
            try:
                work()
                return
            except RefusedError:
                raise
            except RetryableError as error:
                attempt = 0 if time.monotonic() - began > RECONNECT.limit_s else attempt + 1
                self._back_off("server_awaited", error, attempt)

    def _back_off(self, what: str, error: RetryableError, attempt: int, **more: object) -> None:
        """Log what the thread waits for, and wait for the attempt's delay or until the process stops."""
        delay_s = RECONNECT.delay_s(attempt)
        _log.warning(what, code=error.code, detail=explain(error), retry_in_s=round(delay_s, 2), **more)
        self._this.loop.beat()
        self._stopping.wait(delay_s)

    def _consume(self) -> None:
        """Take events, apply them, publish what follows, acknowledge: this order loses nothing."""
        settings = self._settings
        with (
            closing(Publisher(settings)) as publisher,
            closing(BatchConsumer(settings, "events", batch=settings.batch_events, linger_s=LINGER_S)) as source,
        ):
            while not self._stopping.is_set():
                self._this.loop.beat()
                deliveries = source.take(TAKE_TIMEOUT_S)
                if deliveries:
                    self._publish(publisher, self._apply(source, deliveries))
                    source.settle(deliveries)

    def _apply(self, consumer: BatchConsumer, deliveries: Sequence[Delivery]) -> list[Outgoing]:
        """Apply messages; hold them while the database is unavailable.

        Requeued messages would be redelivered at once, and each time count towards the broker's delivery limit.
        """
        attempt = 0
        while True:
            try:
                with _EVENTS_WORK.time():
                    return apply_deliveries(self._store, deliveries, policies=self._policies, now=SYSTEM_CLOCK.now())
            except RetryableError as error:
                if self._stopping.is_set() or isinstance(error, RefusedError):
                    raise
                self._back_off("events_held", error, attempt, events=len(deliveries))
                consumer.keep_alive()
                attempt += 1
                # The connection may have broken after the commit; then the commands still have to be published.
                deliveries = [replace(each, is_redelivered=True) for each in deliveries]

    def _sweep(self) -> None:
        """Admit queued problems at every wake-up; attend to overdue, cancelled and expired ones at intervals."""
        store, policies = self._store, self._policies
        window, next_look = self._settings.window, 0.0
        next_prune = time.monotonic() + PRUNE_EVERY.total_seconds()
        with closing(Publisher(self._settings)) as publisher, closing(self._database.listen()) as listening:
            while not self._stopping.is_set():
                self._drain(publisher, lambda: admit(store, window=window, policies=policies, now=SYSTEM_CLOCK.now()))
                if time.monotonic() >= next_look:
                    self._drain(publisher, lambda: attend(store, policies=policies, now=SYSTEM_CLOCK.now()))
                    next_look = time.monotonic() + self._settings.sweep_interval_s
                if time.monotonic() >= next_prune:
                    gone = prune(self._database, now=SYSTEM_CLOCK.now(), on_portion=self._on_pruned)
                    forget_listeners(self._settings, gone)
                    next_prune = time.monotonic() + PRUNE_EVERY.total_seconds()
                if self._wait_for_wake_up(listening, until=min(next_look, time.monotonic() + STOP_POLL_S)) == "cancel":
                    next_look = 0.0

    def _on_pruned(self, rows: int) -> None:
        self._this.loop.beat()
        count_pruned(rows)

    def _drain(self, publisher: Publisher, sweep: Callable[[], Sweep]) -> None:
        """Sweep until nothing is left to find, publishing after each transaction."""
        is_full = True
        while is_full and not self._stopping.is_set():
            self._this.loop.beat()
            with metrics.SWEEP_SECONDS.time():
                swept = sweep()
            self._publish(publisher, swept.outgoing)
            is_full = swept.is_full

    def _report_liveness(self) -> None:
        """Record this process's heartbeat, and whether it reaches the broker and the database."""
        with closing(Publisher(self._settings)) as publisher:
            while not self._stopping.is_set():
                self._this.loop.beat()
                has_broker = self._check_broker(publisher)
                with suppress(CodeOutdated):  # Only a start is refused; the health has it.
                    watch_database(self._database, self._health, every_s=self._settings.heartbeat_s)
                now = SYSTEM_CLOCK.now()
                report_liveness(self._database, name=self._settings.node_name, has_broker=has_broker, now=now)
                if self._settings.metrics_port is not None:
                    self._open_problems.show()
                self._stopping.wait(self._settings.heartbeat_s)

    def _check_broker(self, publisher: Publisher) -> bool:
        """Find out whether the broker answers, and record it in the health."""
        try:
            publisher.check()
        except RetryableError as error:
            self._health.miss("broker", explain(error))
            return False
        self._health.meet("broker", "The broker answers.")
        return True

    def _wait_for_wake_up(self, listening: psycopg.Connection[tuple[object, ...]], *, until: float) -> WakeUp:
        """Wait for a wake-up or until a time; return what the wake-up is for."""
        try:
            heard = listening.notifies(timeout=max(0.0, until - time.monotonic()), stop_after=1)
            return "cancel" if "cancel" in [each.payload for each in heard] else "admit"
        except psycopg.Error as error:
            raise DatabaseUnavailable from error

    def _publish(self, publisher: Publisher, outgoing: list[Outgoing]) -> None:
        """Publish what was committed; wait for an unreachable broker, as lost commands return only once overdue."""
        attempt = 0
        while True:
            try:
                publisher.publish(outgoing)
                return
            except RetryableError as error:
                if self._stopping.is_set() or isinstance(error, RefusedError):
                    raise  # Nothing is acknowledged: the broker redelivers the events to another orchestrator.
                self._back_off("publication_failed", error, attempt, messages=len(outgoing))
                attempt += 1
