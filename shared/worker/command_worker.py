"""A worker process: Celery takes commands off one queue, and N threads hand them to one engine."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import get_args

import celery.worker.state
from amqp.exceptions import AccessRefused
from celery import Celery, Task
from celery.exceptions import WorkerShutdown
from celery.worker import WorkController
from celery.worker.consumer import Consumer
from kombu.connection import Connection
from kombu.message import Message as KombuMessage

from shared.backoff import RECONNECT
from shared.bus.cancellations import CancelListener
from shared.bus.connection import broker_errors, connect, unavailable
from shared.bus.declaring import Declarer, QueuesMissing
from shared.bus.publisher import SharedPublisher
from shared.bus.topology import DELIVERY_LIMIT, QUEUES, DeadLetter, Topology, count_deliveries
from shared.clock import SYSTEM_CLOCK
from shared.domain.roles import WorkerRole
from shared.engines.port import EngineDead, Generator, Scorer
from shared.errors import RefusedError, RetryableError, explain
from shared.log import about_message, get_logger
from shared.messages import CancelWork, Command, Message, UndecodableMessage, WorkerSeen, decode
from shared.observe import metrics
from shared.observe.health import Health
from shared.settings import Settings
from shared.worker.broker_watch import BrokerWatch
from shared.worker.celery_app import make_app, make_consumer_class
from shared.worker.execution import Begin, Executor, Outcome
from shared.worker.results import Settle
from shared.worker.running_work import RunningWork

_log = get_logger(__name__)


CONDITIONS = ("engine", "broker")
"""What a worker needs to be ready."""

HEARTBEAT_LIMIT_S = 60.0
"""Seconds without a round, besides its pauses, after which the thread that sends heartbeats counts as stalled."""


class ConsumerEnded(RetryableError):
    """The worker lost its connection to the broker and stopped; its log has the reason."""

    code = "consumer_ended"


class CommandWorker:
    """Runs the worker of one role until it is stopped."""

    def __init__(
        self, settings: Settings, role: WorkerRole, health: Health, *, engine: Generator | Scorer, begin: Begin
    ) -> None:
        self._settings = settings
        self._role = role
        self._health = health
        self._engine = engine
        self._running = RunningWork()
        self._must_stop = threading.Event()
        self._stopped_by: signal.Signals | None = None
        self._is_draining = threading.Event()
        self._must_requeue = threading.Event()
        self._executor = Executor(
            role=role,
            worker=settings.node_name,
            clock=SYSTEM_CLOCK,
            begin=begin,
            running=self._running,
            must_requeue=self._must_requeue.is_set,
        )
        self._is_dead = threading.Event()
        metrics.begin_counting(role, outcomes=get_args(Outcome))
        metrics.CONCURRENCY.labels(role).set(settings.concurrency)
        metrics.COMMANDS_RUNNING.labels(role).set_function(lambda: self._running.count)
        metrics.ENGINE_HEALTHY.labels(role).set(1)
        self._declarer = Declarer(Topology(settings.queue_prefix))
        self._failure: Exception | None = None
        self._controller: WorkController | None = None

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
        listener = CancelListener(self._settings, self._on_cancel)
        threading.Thread(target=self._drain, name="drain", daemon=True).start()
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True).start()
        self._controller = WorkController(
            app=make_app(self._settings, self._role, self._strategy),
            hostname=f"{self._role}@{self._settings.node_name}",
            pool="threads",
            concurrency=self._settings.concurrency,
            consumer_cls=make_consumer_class(self._bury, self._watch, declare=self._declare, fail=self._fail),
            without_mingle=True,
        )
        _log.info("worker_started", model=self._engine.model_id, concurrency=self._settings.concurrency)
        try:
            self._controller.start()
        finally:
            was_stopped = self._is_draining.is_set()
            self._is_draining.set()
            listener.close()
            self._publisher.close()
            _log.info("worker_stopped")
        if self._is_dead.is_set():
            raise EngineDead
        if self._failure is not None:
            raise self._failure
        if not was_stopped:
            raise ConsumerEnded

    def _declare(self, connection: Connection) -> None:
        """Declare the queues on a connection of Celery; wait while they are missing and this user may not."""
        attempt = 0
        while not self._is_draining.is_set():
            try:
                self._declarer.declare(connection)
                return
            except QueuesMissing as error:
                self._watch.on_waiting(error)
                self._is_draining.wait(_log_wait(error, attempt))
                attempt += 1
        raise WorkerShutdown(0)

    def _fail(self, error: Exception) -> None:
        """End the process with an error of the broker."""
        self._failure = unavailable(error) if isinstance(error, AccessRefused) else error
        if self._failure is not error:
            self._failure.__cause__ = error
        raise WorkerShutdown(1)

    def _strategy(self, _task: Task, _app: Celery, consumer: Consumer) -> Callable[..., None]:
        """Make the function with which Celery's loop hands over a message."""

        def receive(message: KombuMessage, *_unused: object) -> None:
            if self._is_draining.is_set():
                self._unsubscribe(consumer)
                message.requeue()
                return
            try:
                command = self._decode(message)
            except UndecodableMessage as error:
                self._bury(consumer, message, error.reason, error.message)
                return
            consumer.pool.apply_async(self._execute, (command, _settle_in_loop(consumer, message, command)))

        return receive

    def _decode(self, message: KombuMessage) -> Command:
        raw = _raw(message)
        if (deliveries := count_deliveries(message)) > DELIVERY_LIMIT:
            raise UndecodableMessage(raw, f"it was delivered {deliveries} times and never settled")
        command = decode(raw)
        if not isinstance(command, QUEUES[self._role]):
            raise UndecodableMessage(raw, f"{command.kind} does not belong on this queue", command)
        return command  # type: ignore[return-value]

    def _bury(self, consumer: Consumer, message: KombuMessage, reason: str, decoded: Message | None = None) -> None:
        """Move an unusable message to the dead letters; it stays unacknowledged until the broker has it there."""
        with about_message(decoded):
            _log.error("message_buried", queue=self._role, reason=reason)
        settle = _settle_in_loop(consumer, message, decoded)
        buried = self._publisher.publish(DeadLetter(self._role, _raw(message), reason))
        buried.add_done_callback(lambda future: settle(requeue=future.exception() is not None))

    def _execute(self, command: Command, settle: Settle) -> None:
        """Carry out a command in a thread of the pool; acknowledge it last."""
        with about_message(command):
            self._carry_out(command, settle)

    def _carry_out(self, command: Command, settle: Settle) -> None:
        try:
            for _ in self._executor.carry_out(command, publisher=self._publisher, settle=settle):
                pass
        except EngineDead:
            _log.error("engine_died")
            self._die()
        except Exception:  # noqa: BLE001 - the pool would drop it without a word
            _log.exception("command_unreported")

    def _on_cancel(self, cancel: CancelWork) -> None:
        self._running.cancel(cancel.problem_id, before_epoch=cancel.epoch, now=SYSTEM_CLOCK.now())

    def _send_heartbeats(self) -> None:
        """Send heartbeats; at most one is queued while the broker is unreachable."""
        beat: Future[None] | None = None
        loop = self._health.loop("heartbeat", limit_s=self._settings.heartbeat_s + HEARTBEAT_LIMIT_S)
        while not self._is_draining.is_set():
            loop.beat()
            self._watch.on_publishing(self._publisher.failure)
            try:
                self._engine.check()
            except EngineDead:
                _log.error("engine_died")
                self._die()
                return
            if beat is None or beat.done():
                seen = WorkerSeen(
                    role=self._role,
                    worker=self._settings.node_name,
                    model=self._engine.model_id,
                    seen_at=SYSTEM_CLOCK.now(),
                )
                beat = self._publisher.publish(seen)
            self._is_draining.wait(self._settings.heartbeat_s)
        loop.pause()

    def _on_signal(self, number: int, _frame: object) -> None:
        # No log line and no new thread: the signal may have interrupted one in the main thread.
        self._stopped_by = signal.Signals(number)
        self._must_stop.set()

    def _die(self) -> None:
        """End the process: a worker without an engine would take commands and fail them all."""
        self._is_dead.set()
        metrics.ENGINE_HEALTHY.labels(self._role).set(0)
        self._health.break_down(str(EngineDead()))
        self._health.miss("engine", str(EngineDead()))
        self._must_stop.set()

    def _unsubscribe(self, consumer: Consumer) -> None:
        """Have Celery's loop cancel the subscription, or requeued commands would be delivered here again and again."""

        def cancel() -> None:
            if consumer.task_consumer is not None:
                consumer.task_consumer.cancel()

        consumer.call_soon(cancel)

    def _drain(self) -> None:
        """Wait for the stop; then take nothing new, let the grace period or the work end, requeue the rest, and end."""
        self._must_stop.wait()
        self._is_draining.set()
        if self._stopped_by is not None:
            _log.info("worker_stopping", signal=self._stopped_by.name, running=self._running.count)
        if self._controller is not None and self._controller.consumer is not None:
            self._unsubscribe(self._controller.consumer)
        grace_until = time.monotonic() + self._settings.stop_grace_s
        while self._running.count and time.monotonic() < grace_until:
            time.sleep(0.02)
        self._must_requeue.set()
        self._running.cancel_all()
        # Results that wait for an unreachable broker are abandoned; the next worker does their commands again.
        self._publisher.close()
        celery.worker.state.should_stop = 0
        hub = self._controller.hub if self._controller else None
        if hub is not None:
            hub.call_soon(lambda: None)  # Wakes the loop, which otherwise sleeps until a message arrives.


def wait_for_broker(settings: Settings, declarer: Declarer, health: Health) -> None:
    """Wait with back-off until the broker answers and has the queues.

    Raises:
        BrokerRefused, QueueDiffers: Waiting does not help.
    """
    attempt = 0
    while True:
        try:
            connection = connect(settings)
            try:
                declarer.declare(connection)
            except broker_errors(connection) as error:
                raise unavailable(error) from error
            finally:
                connection.release()
            return
        except RefusedError:
            raise
        except RetryableError as error:
            health.miss("broker", explain(error))
            time.sleep(_log_wait(error, attempt))
            attempt += 1


def _log_wait(error: RetryableError, attempt: int) -> float:
    """Log what the worker waits for; return the seconds until its next attempt."""
    delay_s = RECONNECT.delay_s(attempt)
    _log.warning("broker_awaited", code=error.code, detail=explain(error), retry_in_s=round(delay_s, 2))
    return delay_s


def _settle_in_loop(consumer: Consumer, message: KombuMessage, decoded: Message | None) -> Settle:
    """Return how any thread settles a message: Celery's loop does it, as an AMQP connection is not thread-safe."""

    def settle_here(*, requeue: bool) -> None:
        with about_message(decoded):
            _settle(message, requeue=requeue)

    def settle(*, requeue: bool) -> None:
        consumer.call_soon_ack(settle_here, requeue=requeue)

    return settle


def _settle(message: KombuMessage, *, requeue: bool) -> None:
    """Acknowledge or requeue a message, if the connection that delivered it still exists."""
    try:
        if requeue:
            message.requeue()
        else:
            message.ack()
    except Exception as error:  # noqa: BLE001 - whatever a broken connection raises: the broker redelivers the message
        _log.warning("message_not_settled", reason=type(error).__name__)


def _raw(message: KombuMessage) -> bytes:
    body = message.body
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)
