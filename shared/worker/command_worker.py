"""A worker process: Celery takes commands off one queue, and N threads hand them to one engine."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Final, assert_never, get_args

import celery.worker.state
from amqp.exceptions import AccessRefused
from celery.exceptions import WorkerShutdown
from celery.worker import WorkController
from kombu.asynchronous.hub import Hub
from kombu.connection import Connection

from shared.bus.broadcasts import BroadcastListener
from shared.bus.connection import unavailable
from shared.bus.declaring import Declarer, QueuesMissing
from shared.bus.publisher import SharedPublisher
from shared.bus.signing import MessageKeys
from shared.bus.topology import Topology
from shared.cancellation import Cancellation
from shared.clock import ServiceClock
from shared.domain.roles import WorkerRole
from shared.engines.port import EngineDead, Generator, Scorer
from shared.errors import RetryableError, TrimError
from shared.heartbeats import silence_s
from shared.log import get_logger
from shared.messages import Broadcast, CancelWork, ClockTold
from shared.observe import metrics
from shared.observe.health import Health
from shared.settings import Settings
from shared.worker.broker_watch import BrokerWatch, log_wait, wait_for_broker
from shared.worker.celery_app import make_app, make_consumer_class
from shared.worker.execution import Begin, Outcome
from shared.worker.executor import Executor
from shared.worker.fitness import PROBE_TIMEOUT_S, Fitness
from shared.worker.heartbeats import Heartbeats
from shared.worker.reception import Reception
from shared.worker.running_work import RunningWork

_log = get_logger(__name__)


CONDITIONS = ("engine", "broker")
"""What a worker needs to be ready."""

ATTEND_EVERY_S: Final = 1.0
"""Seconds between two looks at the engine's progress, or at whether it is time for the next probe."""

ENGINE_LIMIT_S: Final = PROBE_TIMEOUT_S + 60.0
"""Seconds without a round after which the thread that attends to the engine counts as stalled."""


RETURN_TIMEOUT_S: Final = 2.0
"""Seconds that commands have to end after their cancellation, so that they return to their queue."""

SETTLE_TIMEOUT_S: Final = 1.0
"""Seconds that a stopping worker waits until Celery's loop has settled what ended; without a connection it has none."""


class ConsumerEnded(RetryableError):
    """The worker lost its connection to the broker and stopped; its log has the reason."""

    code = "consumer_ended"


class CommandWorker:
    """Runs the worker of one role until it is stopped."""

    def __init__(  # long: it makes all parts of the process
        self,
        settings: Settings,
        role: WorkerRole,
        health: Health,
        *,
        engine: Generator | Scorer,
        begin: Begin,
        probe: Callable[[Cancellation], object],
        failed: TrimError | None = None,
    ) -> None:
        """Prepare to work.

        Args:
            settings: The settings.
            role: The worker's role.
            health: Gets the conditions `engine` and `broker`.
            engine: The engine; the caller closes it.
            begin: Begins the work of a command.
            probe: Makes a short call of the engine; see `Fitness`.
            failed: Why the engine failed its first call; the worker begins unfit then.
        """
        self._settings = settings
        self._role = role
        self._health = health
        self._engine = engine
        self._clock = ServiceClock()
        self._running = RunningWork(now=self._clock.now)
        self._must_stop = threading.Event()
        self._stopped_by: signal.Signals | None = None
        self._is_draining = threading.Event()
        self._must_return = threading.Event()
        self._is_dead = threading.Event()
        self._declarer = Declarer(Topology(settings.queue_prefix))
        self._failure: Exception | None = None
        self._controller: WorkController | None = None
        metrics.begin_counting(role, outcomes=get_args(Outcome))
        metrics.CONCURRENCY.labels(role).set(settings.concurrency)
        metrics.COMMANDS_RUNNING.labels(role).set_function(lambda: self._running.count)
        self._fitness = Fitness(
            probe,
            self._clock,
            self._running,
            stall_s=settings.stall_s,
            is_in_process=settings.engine != "openai",
            on_change=self._on_fitness,
            failed=failed,
        )
        self._heartbeats = Heartbeats(
            settings,
            role,
            health,
            clock=self._clock,
            model=lambda: engine.model_id,
            unfit=lambda: self._fitness.unfit,
        )
        self._executor = Executor(
            role=role,
            worker=settings.node_name,
            clock=self._clock.clock,
            begin=begin,
            running=self._running,
            must_requeue=self._is_dead.is_set,
            must_return=self._must_return.is_set,
            judge=self._fitness,
            unfit_spans=lambda: self._fitness.unfit_spans if self._clock.is_set else None,
        )
        self._on_fitness()

    def run(self) -> None:
        """Work until SIGTERM or SIGINT, then finish what runs, or requeue it when the grace period is over.

        Raises:
            EngineDead: The engine broke down.
            ConsumerEnded: The connection to the broker ended.
            BrokerRefused, BrokerForbids, QueueDiffers: Settings, permissions or queues have to be changed.
        """
        wait_for_broker(self._settings, self._declarer, self._health)
        self._watch = BrokerWatch(self._health)
        self._publisher = SharedPublisher(self._settings, self._declarer)
        self._reception = self._make_reception()
        threading.Thread(target=self._drain, name="drain", daemon=True).start()
        # Before the listener: a signal that ended the process at once would leave its private queue on pgmq.
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        listener = BroadcastListener(self._settings, self._hear)
        for work, name in ((self._send_heartbeats, "heartbeat"), (self._attend_to_engine, "engine")):
            threading.Thread(target=work, name=name, daemon=True).start()
        self._controller = self._make_controller()
        _log.info("worker_started", model=self._engine.model_id, concurrency=self._settings.concurrency)
        try:
            self._controller.start()
        finally:
            was_stopped = self._is_draining.is_set()
            self._is_draining.set()
            self._heartbeats.end()
            listener.close()
            self._publisher.close()
            _log.info("worker_stopped")
        if self._is_dead.is_set():
            raise EngineDead
        if self._failure is not None:
            raise self._failure
        if not was_stopped:
            raise ConsumerEnded

    def _make_reception(self) -> Reception:
        return Reception(
            self._role,
            self._executor,
            self._publisher,
            self._watch,
            self._clock,
            concurrency=self._settings.concurrency,
            silence_s=silence_s(self._settings),
            is_draining=self._is_draining.is_set,
            follow=self._follow,
            on_dead=self._die,
            keys=MessageKeys.of(self._settings),
        )

    def _make_controller(self) -> WorkController:
        return WorkController(
            app=make_app(self._settings, self._role, self._reception.strategy),
            hostname=f"{self._role}@{self._settings.node_name}",
            pool="threads",
            concurrency=self._settings.concurrency,
            consumer_cls=make_consumer_class(
                self._reception.bury_unusable,
                self._watch,
                declare=self._declare,
                fail=self._fail,
                wants=self._wants_commands,
                is_silent=self._reception.is_silent,
                pause=self._is_draining.wait,
            ),
            without_mingle=True,
        )

    def _declare(self, connection: Connection) -> None:
        """Declare the queues on a connection of Celery; wait while they are missing and this user may not."""
        attempt = 0
        while not self._is_draining.is_set():
            try:
                self._declarer.declare(connection)
                return
            except QueuesMissing as error:
                self._watch.on_waiting(error)
                self._is_draining.wait(log_wait(error, attempt))
                attempt += 1
        raise WorkerShutdown(0)

    def _fail(self, error: Exception) -> None:
        """End the process with an error of the broker."""
        self._failure = unavailable(error) if isinstance(error, AccessRefused) else error
        if self._failure is not error:
            self._failure.__cause__ = error
        raise WorkerShutdown(1)

    def _hear(self, heard: Broadcast) -> None:
        match heard:
            case CancelWork():
                self._running.cancel(heard.problem_id, before_epoch=heard.epoch)
            case ClockTold():
                self._clock.set(heard.told_at)
            case _:
                assert_never(heard)

    def _wants_commands(self) -> bool:
        is_free = self._fitness.is_fit and self._reception.quarantine.takes_commands
        return is_free and not self._is_draining.is_set() and self._failure is None

    def _on_fitness(self) -> None:
        """Show that the worker has become fit or unfit, and have Celery's loop follow."""
        unfit = self._fitness.unfit
        metrics.ENGINE_HEALTHY.labels(self._role).set(unfit is None)
        if unfit is None:
            self._health.meet("engine", f"The model {self._engine.model_id} answers.")
        else:
            self._health.miss("engine", unfit.detail)
        self._heartbeats.send_now()
        self._follow()

    def _follow(self) -> None:
        """Have Celery's loop subscribe to the queue or cancel the subscription now, and not at its next beat.

        While the worker takes no commands, requeued ones would be delivered here again and again.
        """
        consumer = self._controller.consumer if self._controller is not None else None
        if consumer is not None:
            consumer.call_soon(consumer.follow)

    def _send_heartbeats(self) -> None:
        def is_alive() -> bool:
            self._watch.on_publishing(self._publisher.failure)
            return self._guards_engine(self._engine.check)

        self._heartbeats.run(self._publisher, is_alive)

    def _attend_to_engine(self) -> None:
        loop = self._health.loop("engine", limit_s=ENGINE_LIMIT_S)
        while not self._is_draining.wait(ATTEND_EVERY_S):
            loop.beat()
            self._reception.look()
            if not self._guards_engine(self._fitness.attend):
                break
        loop.pause()

    def _guards_engine(self, look: Callable[[], None]) -> bool:
        """Look after the engine; end the process and return `False` if it broke down."""
        try:
            look()
        except EngineDead:
            _log.error("engine_died")
            self._die()
            return False
        return True

    def _on_signal(self, number: int, _frame: object) -> None:
        # No log line and no new thread: the signal may have interrupted one in the main thread. The second of two
        # signals may have interrupted the first one, which holds the lock of the event.
        if self._stopped_by is None:
            self._stopped_by = signal.Signals(number)
            self._must_stop.set()

    def _die(self) -> None:
        """End the process: a worker without an engine would take commands and fail them all."""
        self._is_dead.set()
        metrics.ENGINE_HEALTHY.labels(self._role).set(0)
        self._health.break_down(str(EngineDead()))
        self._health.miss("engine", str(EngineDead()))
        self._must_stop.set()

    def _drain(self) -> None:
        """Wait for the stop; then end the work, and Celery's loop whatever happens to the work."""
        self._must_stop.wait()
        try:
            self._end_work()
        except Exception:  # noqa: BLE001 - a worker that does not end takes nothing, and is killed with what it runs
            _log.exception("stop_failed")
            self._running.cancel_all()
        celery.worker.state.should_stop = 0
        if (hub := self._hub) is not None:
            hub.call_soon(lambda: None)

    @property
    def _hub(self) -> Hub | None:
        return self._controller.hub if self._controller else None

    def _end_work(self) -> None:
        """Take nothing new, let the grace period or the work end, return the rest, and have it settled."""
        self._is_draining.set()
        self._heartbeats.end()
        if self._stopped_by is not None:
            _log.info("worker_stopping", signal=self._stopped_by.name, running=self._running.count)
        self._follow()
        self._reception.close()
        self._wait_for_work(self._settings.stop_grace_s)
        self._must_return.set()
        self._fitness.close()
        self._running.cancel_all()
        self._wait_for_work(RETURN_TIMEOUT_S)
        # Results that wait for an unreachable broker are abandoned; the next worker does their commands again.
        self._publisher.close()
        if (hub := self._hub) is not None:
            # Wakes the loop, which otherwise sleeps until a message arrives, and has it send what was settled. The
            # calls of one round have no order, but come before those of the next.
            has_settled = threading.Event()
            hub.call_soon(lambda: hub.call_soon(has_settled.set))
            has_settled.wait(SETTLE_TIMEOUT_S)

    def _wait_for_work(self, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while self._running.count and time.monotonic() < until:
            time.sleep(0.02)
