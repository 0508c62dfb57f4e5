"""The orchestrator process: consumes events, sweeps between them, and sends heartbeats."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import psycopg

from services.orchestrator.applying import Outgoing
from services.orchestrator.batches import Applied, apply_deliveries
from services.orchestrator.counting import count_pruned
from services.orchestrator.housekeeping import PRUNE_EVERY, OpenProblems, prune, report_liveness, set_clock
from services.orchestrator.policy_cache import PolicyCache
from services.orchestrator.presence import Listening, Presence
from services.orchestrator.setting_aside import SetAside
from services.orchestrator.sweeping import admit, attend, take_turns, tell_roles
from services.orchestrator.tails import Tails
from shared.backoff import RECONNECT
from shared.bus.broadcasts import forget_listeners
from shared.bus.connection import BrokerBlocked, check_broker
from shared.bus.consumer import BatchConsumer, Delivery
from shared.bus.declaring import QueueDiffers
from shared.bus.publisher import Publisher
from shared.bus.signing import MessageKeys
from shared.clock import ServiceClock
from shared.domain.fitness import Unfit
from shared.domain.roles import WorkerRole
from shared.errors import RefusedError, RetryableError, explain
from shared.heartbeats import silence_s
from shared.log import get_logger
from shared.messages import ClockTold
from shared.observe import metrics
from shared.observe.health import Health, LoopBeat
from shared.process import setting
from shared.settings import Settings
from shared.store.compatibility import CodeOutdated
from shared.store.database import Database, DatabaseUnavailable, WakeUp
from shared.store.port import Transaction
from shared.store.reasoning_state import PostgresStore
from shared.store.watching import CONDITIONS as DATABASE_CONDITIONS
from shared.store.watching import watch_database

LINGER_S = 0.003
"""Seconds that a batch waits for more events while the service is busy; a single event never waits."""

CONDITIONS = (*DATABASE_CONDITIONS, "broker")
"""What an orchestrator needs to be ready."""

LOCK_TIMEOUT_S = 1.0
"""Seconds that a statement waits for a lock. Rows of problems and heartbeats are skipped while they are locked, and
commits that notify take turns for milliseconds. A longer wait is for a session that hangs or is not the service's."""

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
    """Four threads: one consumes events in batches, one admits problems, one sweeps, one sends heartbeats."""

    def __init__(self, settings: Settings, health: Health) -> None:
        self._settings = settings
        self._health = health
        self._database = Database(
            settings.require_database_url(),
            name=f"trim-orchestrator {settings.node_name}",
            lock_timeout_s=LOCK_TIMEOUT_S,
            is_retried=True,
        )
        self._store = PostgresStore(self._database, max_running=settings.tenant_max_running)
        self._policies = PolicyCache(self._store, shadow_time_s=settings.shadow_time_ms / 1000)
        self._stopping = threading.Event()
        self._has_cancellations = threading.Event()
        self._has_crashed = threading.Event()
        self._failure: RefusedError | QueueDiffers | None = None
        self._open_problems = OpenProblems(self._database)
        self._listening = Listening(monotonic=time.monotonic)
        self._presence = Presence(self._listening, silence_s=silence_s(settings))
        self._tails = Tails()
        self._keys = MessageKeys.of(settings)
        self._away: Collection[WorkerRole] = ()
        """The roles that are away, as of the last sweep."""
        self._clock = ServiceClock()
        self._means: Any = {"policies": self._policies, "tails": self._tails, "now": self._clock.now}
        """What every transaction needs."""
        self._blocked: Unfit | None = None
        """Why the broker accepts no messages, if it does not."""
        metrics.ADMISSION_WINDOW.set(settings.window)
        self._this = _Thread(health.loop("consumer", limit_s=LOOP_LIMIT_S))

    def run(self) -> None:
        """Orchestrate until SIGTERM or SIGINT; unacknowledged events return to the broker.

        Raises:
            ThreadCrashed: A thread crashed. The others stop too: half an orchestrator would look alive.
            RefusedError, QueueDiffers: Settings or queues have to be changed; waiting does not help.
        """
        stop = setting(self._stopping)
        signal.signal(signal.SIGINT, stop)
        check_broker(self._settings)
        with closing(self._database):
            self._reconnecting(lambda: watch_database(self._database, self._health, every_s=self._settings.heartbeat_s))
            self._reconnecting(lambda: set_clock(self._database, self._clock))
            # Until here SIGTERM ends the process at once: it has taken nothing, and may wait for a server.
            signal.signal(signal.SIGTERM, stop)
            if self._stopping.is_set():
                return
            others = [
                threading.Thread(target=self._run_thread, args=(work,), name=name)
                for name, work in (
                    ("admission", self._admit),
                    ("sweeper", self._sweep),
                    ("liveness", self._report_liveness),
                )
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
        self._listening.interrupted()
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
            aside = SetAside(monotonic=time.monotonic)
            while not self._stopping.is_set():
                self._this.loop.beat()
                deliveries = source.take(min(TAKE_TIMEOUT_S, aside.due_in_s))
                if deliveries or aside.due_in_s == 0:
                    applied = self._apply(source, deliveries, aside)
                    self._publish(publisher, applied.outgoing, meanwhile=source.keep_alive)
                    source.settle(applied.settled)
                    if len(aside) > 0:
                        source.make_room()
                if len(deliveries) < settings.batch_events:
                    self._listening.caught_up()

    def _apply(self, consumer: BatchConsumer, deliveries: Sequence[Delivery], aside: SetAside) -> Applied:
        """Apply messages; hold them while the database is unavailable.

        Requeued messages would be redelivered at once, and each time count towards the broker's delivery limit.
        """
        attempt = 0
        while True:
            try:
                with _EVENTS_WORK.time():
                    return apply_deliveries(self._store, deliveries, aside=aside, keys=self._keys, **self._means)
            except RetryableError as error:
                if self._stopping.is_set() or isinstance(error, RefusedError):
                    raise
                self._back_off("events_held", error, attempt, events=len(deliveries))
                consumer.keep_alive()
                attempt += 1
                # The connection may have broken after the commit; then the commands still have to be published.
                deliveries = [replace(each, is_redelivered=True) for each in deliveries]
                aside.redeliver()

    def _admit(self) -> None:
        """Admit queued problems at every wake-up, and now and then without one."""
        admit_some = partial(admit, self._store, window=self._settings.window, away=lambda: self._away, **self._means)
        with closing(Publisher(self._settings)) as publisher, closing(self._database.listen()) as listening:
            while not self._stopping.is_set():
                self._publish_all(publisher, take_turns(admit_some))
                if self._wait_for_wake_up(listening) == "cancel":
                    self._has_cancellations.set()

    def _sweep(self) -> None:
        """Attend to overdue, expired and cancelled problems at intervals, and at once when one is cancelled."""
        attend_some, tell_some = (
            partial(sweep, self._store, roles=self._read_roles, **self._means) for sweep in (attend, tell_roles)
        )
        next_prune = time.monotonic() + PRUNE_EVERY.total_seconds()
        with closing(Publisher(self._settings)) as publisher:
            while not self._stopping.is_set():
                self._has_cancellations.clear()
                self._publish_all(publisher, take_turns(attend_some, tell_some))
                if time.monotonic() >= next_prune:
                    gone = prune(self._database, now=self._clock.now(), on_portion=self._on_pruned)
                    forget_listeners(self._settings, gone)
                    next_prune = time.monotonic() + PRUNE_EVERY.total_seconds()
                self._wait_for_sweep()

    def _read_roles(self, transaction: Transaction, now: datetime) -> Mapping[WorkerRole, datetime] | None:
        """Read which roles are away, for the sweeper, and remember for the others who is there."""
        known = self._presence(transaction, now)
        self._away = frozenset(known or ())
        self._tails.workers = self._presence.completing
        return known

    def _wait_for_sweep(self) -> None:
        """Wait until the next sweep, a cancellation, or the end of the process."""
        next_sweep = time.monotonic() + self._settings.sweep_interval_s
        while (left_s := next_sweep - time.monotonic()) > 0 and not self._stopping.is_set():
            self._this.loop.beat()
            if self._has_cancellations.wait(min(left_s, STOP_POLL_S)):
                return

    def _on_pruned(self, rows: int) -> None:
        self._this.loop.beat()
        count_pruned(rows)

    def _publish_all(self, publisher: Publisher, sweeps: Iterator[list[Outgoing]]) -> None:
        """Publish what sweeps yield, after each of their transactions, until they end or the process stops."""
        for outgoing in sweeps:
            self._publish(publisher, outgoing)
            self._this.loop.beat()
            if self._stopping.is_set():
                return

    def _report_liveness(self) -> None:
        """Record this process's heartbeat, and whether it reaches the broker and the database."""
        with closing(Publisher(self._settings)) as publisher:
            while not self._stopping.is_set():
                self._this.loop.beat()
                has_broker = self._check_broker(publisher)
                with suppress(CodeOutdated):  # Only a start is refused; the health has it.
                    watch_database(self._database, self._health, every_s=self._settings.heartbeat_s)
                set_clock(self._database, self._clock)
                now = self._clock.now()
                name, blocked = self._settings.node_name, self._blocked
                report_liveness(self._database, name=name, has_broker=has_broker, now=now, blocked=blocked)
                if self._settings.metrics_port is not None:
                    self._open_problems.show()
                self._stopping.wait(self._settings.heartbeat_s)

    def _check_broker(self, publisher: Publisher) -> bool:
        """Find out whether the broker answers, record it in the health, and tell workers the time.

        A broker under an alarm answers, but accepts no messages: no heartbeat arrives then, although workers run.
        """
        try:
            publisher.check()
            publisher.publish([ClockTold(told_at=self._clock.now())])
        except RetryableError as error:
            self._health.miss("broker", explain(error))
            self._listening.interrupted()
            if not isinstance(error, BrokerBlocked):
                return False
            since = self._clock.now() if self._blocked is None else self._blocked.since
            self._blocked = Unfit(code=error.code, detail=str(error), since=since)
            return True
        self._blocked = None
        self._health.meet("broker", "The broker answers.")
        return True

    def _wait_for_wake_up(self, listening: psycopg.Connection[tuple[object, ...]]) -> WakeUp:
        """Wait for a wake-up or some time; return what the wake-up is for."""
        try:
            heard = listening.notifies(timeout=STOP_POLL_S, stop_after=1)
            return "cancel" if "cancel" in [each.payload for each in heard] else "admit"
        except psycopg.Error as error:
            raise DatabaseUnavailable from error

    def _publish(
        self, publisher: Publisher, outgoing: list[Outgoing], *, meanwhile: Callable[[], object] = lambda: None
    ) -> None:
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
                meanwhile()
                attempt += 1
