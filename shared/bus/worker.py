"""A worker process: Celery takes commands off one queue, and N threads hand them to one engine.

Celery's part is what it is good at: the connection and its repair, prefetch, the pool of threads, late
acknowledgement. Its own message envelope, results, retries, events and remote control are not used: a command on the
wire is the contract's JSON and nothing else, and state is in Postgres.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import celery.worker.state
from celery import Celery, Task
from celery.worker import WorkController
from celery.worker.consumer import Consumer
from kombu.message import Message as KombuMessage

from shared.bus.cancellations import CancelListener, RunningWork
from shared.bus.connection import BrokerUnavailable, broker_options, broker_transport, broker_url, connect
from shared.bus.publisher import RECONNECT_DELAYS_S, SharedPublisher
from shared.bus.topology import COMMAND, DELIVERY_LIMIT, QUEUES, DeadLetter, Topology, count_deliveries
from shared.engines.port import Cancellation, Cancelled, EngineDead, Generator, Scorer
from shared.errors import RetryableError, TrimError, explain
from shared.log import get_logger
from shared.messages import (
    Command,
    Message,
    ScoreSteps,
    StepsGenerated,
    UndecodableMessage,
    WorkerSeen,
    WorkFailed,
    decode,
    derive_id,
)
from shared.settings import Settings

WorkerRole = Literal["small", "large", "prm"]

BURIAL_TIMEOUT_S = 120.0
"""How long a message that cannot be used waits for a broker that is away, before it is given back to its queue."""

_log = get_logger(__name__)


class ConsumerEnded(RetryableError):
    """The worker's connection to the broker ended for good; its log says why."""

    code = "consumer_ended"


class ScoresTooLate(RetryableError):
    """The PRM had no time for the steps; run more of its workers, or submit with a longer step_timeout_s."""

    code = "scores_too_late"


class WorkerFailed(RetryableError):
    """A worker failed in a way that nobody foresaw; its log has the stack trace."""

    code = "internal"


class Settle(Protocol):
    """Acknowledges a command, or gives it back to its queue."""

    def __call__(self, *, give_back: bool) -> None:
        """Settle it."""


class Publish:
    """Hands a command's results to the broker and remembers which are not confirmed yet."""

    def __init__(self, publisher: SharedPublisher) -> None:
        self._publisher = publisher
        self._handed_in: list[Future[None]] = []
        self.drafts: int = 0
        """How many drafts were in the messages."""

    def __call__(self, message: Message) -> None:
        """Publish a message without waiting for the broker's confirmation."""
        self._handed_in.append(self._publisher.publish(message))
        if isinstance(message, ScoreSteps | StepsGenerated):
            self.drafts += len(message.drafts)

    def is_idle(self) -> bool:
        """Tell whether all that was published is confirmed."""
        return all(future.done() for future in self._handed_in)

    def when_confirmed(self, settle: Settle) -> None:
        """Settle the command once all is confirmed, without a thread that waits for it.

        If the process stops before the broker has confirmed all, the command is given back: whoever takes it next does
        the work again.
        """

        def conclude(_last: object = None) -> None:
            settle(give_back=any(future.exception() for future in self._handed_in))

        if self._handed_in:
            self._handed_in[-1].add_done_callback(conclude)  # They are done in the order in which they were handed in.
        else:
            conclude()


Handle = Callable[[Any, Cancellation, Publish], None]
"""Carries out one command: call the engine, publish what came of it. Runs in many threads at once."""


class CommandWorker:
    """Runs one role's worker until it is told to stop."""

    def __init__(
        self,
        settings: Settings,
        role: WorkerRole,
        *,
        engine: Generator | Scorer,
        handle: Handle,
    ) -> None:
        self._settings = settings
        self._role: WorkerRole = role
        self._engine = engine
        self._handle = handle
        self._running = RunningWork()
        self._is_draining = threading.Event()
        self._must_give_back = threading.Event()
        self._is_dead = threading.Event()
        self._controller: WorkController | None = None

    def run(self) -> None:
        """Work until SIGTERM or SIGINT; then finish what runs, or give it back once the grace is over."""
        wait_for_broker(self._settings)
        self._publisher = SharedPublisher(self._settings)
        listener = CancelListener(self._settings, self._running)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        alive = threading.Thread(target=self._report_alive, name="alive", daemon=True)
        alive.start()
        self._controller = WorkController(
            app=make_app(self._settings, self._role, self._strategy),
            hostname=f"{self._role}@{self._settings.node_name}",
            pool="threads",
            concurrency=self._settings.concurrency,
            consumer_cls=_consumer_class(self._bury),
            without_mingle=True,
        )
        _log.info("worker_started", model=self._engine.model_id, concurrency=self._settings.concurrency)
        try:
            self._controller.start()
        finally:
            was_told = self._is_draining.is_set()
            self._is_draining.set()
            listener.close()
            self._publisher.close()
            _log.info("worker_stopped")
        if self._is_dead.is_set():
            raise EngineDead
        if not was_told:
            raise ConsumerEnded

    # --- taking ----------------------------------------------------------------------------------------------------

    def _strategy(self, _task: Task, _app: Celery, consumer: Consumer) -> Callable[..., None]:
        """Tell Celery what becomes of a message: it is decoded and run in the pool's threads."""

        def take(
            message: KombuMessage,
            _body: object,
            _acknowledge: object,
            _reject: object,
            _callbacks: object,
        ) -> None:
            if self._is_draining.is_set():
                self._unsubscribe(consumer)
                message.requeue()
                return
            try:
                command = self._decode(message)
            except UndecodableMessage as error:
                self._bury(message, error.reason)
                return

            def settle(*, give_back: bool) -> None:
                # Threads may not touch an AMQP connection: Celery's loop does it for them.
                consumer.call_soon_ack(_settle, message, give_back=give_back)

            consumer.pool.apply_async(self._work, (command, settle))

        return take

    def _decode(self, message: KombuMessage) -> Command:
        raw = _raw(message)
        if (deliveries := count_deliveries(message)) > DELIVERY_LIMIT:
            raise UndecodableMessage(raw, f"it was delivered {deliveries} times and never settled")
        command = decode(raw)
        if not isinstance(command, QUEUES[self._role]):
            raise UndecodableMessage(raw, f"{command.kind} does not belong on this queue")
        return command  # type: ignore[return-value]

    def _bury(self, message: KombuMessage, reason: str) -> None:
        """Move a message that cannot be used to the dead letters; it stays on its queue until it is there."""
        _log.error("message_buried", queue=self._role, reason=reason)
        buried = self._publisher.publish(DeadLetter(self._role, _raw(message), reason))
        try:
            buried.result(BURIAL_TIMEOUT_S)
        except (TimeoutError, TrimError):
            message.requeue()
        else:
            message.ack()

    # --- working ---------------------------------------------------------------------------------------------------

    def _work(self, command: Command, settle: Settle) -> None:
        """Carry out a command in a thread of the pool. Acknowledges last."""
        publish = Publish(self._publisher)
        with self._running.track(command.problem_id, command.epoch) as cancellation:
            try:
                self._carry_out(command, cancellation, publish)
            except Cancelled:
                settle(give_back=True)
                return
            except EngineDead:
                _log.error("engine_died", command_id=str(command.id))
                settle(give_back=True)
                self._die()
                return
            except Exception as error:  # noqa: BLE001 - whatever it was, the orchestrator must hear of it
                self._report_failure(command, error, publish)
        publish.when_confirmed(settle)

    def _carry_out(self, command: Command, cancellation: Cancellation, publish: Publish) -> None:
        """Handle a command, unless nobody waits for it any more.

        Raises:
            Cancelled: This process stops; somebody else must carry it out.
        """
        if datetime.now(UTC) <= command.expires_at:
            try:
                self._handle(command, cancellation, publish)
            except Cancelled:
                if self._must_give_back.is_set():
                    raise
            else:
                return
        _log.debug("command_dropped", command_id=str(command.id))
        if isinstance(command, ScoreSteps):
            publish(self._failure(command, ScoresTooLate(), publish))

    def _report_failure(self, command: Command, error: Exception, publish: Publish) -> None:
        """Tell the orchestrator that a command failed; a fault that nobody foresaw may pass, so it is tried again."""
        if isinstance(error, TrimError):
            _log.warning(
                "command_failed",
                command_id=str(command.id),
                code=error.code,
                detail=explain(error),
                retryable=error.retryable,
            )
        else:
            _log.exception("command_crashed", command_id=str(command.id))
            error = WorkerFailed(f"The {self._role} worker failed ({type(error).__name__}).")
        publish(self._failure(command, error, publish))

    def _failure(self, command: Command, error: TrimError, publish: Publish) -> WorkFailed:
        return WorkFailed(
            id=derive_id(command.id, "failed"),
            problem_id=command.problem_id,
            epoch=command.epoch,
            role=self._role,
            step=command.first_step + publish.drafts,
            serial=command.serial,
            code=error.code,
            detail=str(error),
            retryable=error.retryable,
            worker=self._settings.node_name,
            drafts=command.drafts if isinstance(command, ScoreSteps) else (),
        )

    def _die(self) -> None:
        """End the process at once: a worker without an engine would take commands and fail them all."""
        self._is_dead.set()
        threading.Thread(target=self._drain, name="drain", daemon=True).start()

    # --- living and stopping ---------------------------------------------------------------------------------------

    def _report_alive(self) -> None:
        """Give signs of life; while the broker is away one of them waits, not one for every beat."""
        beat: Future[None] | None = None
        while not self._is_draining.is_set():
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
                    seen_at=datetime.now(UTC),
                )
                beat = self._publisher.publish(seen)
            self._is_draining.wait(self._settings.heartbeat_s)

    def _on_signal(self, number: int, _frame: object) -> None:
        if not self._is_draining.is_set():
            _log.info("worker_stopping", signal=signal.Signals(number).name, running=self._running.count)
            threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def _unsubscribe(self, consumer: Consumer) -> None:
        """Have Celery's loop end the subscription, or what is given back would come straight back, to the limit."""

        def cancel() -> None:
            if consumer.task_consumer is not None:
                consumer.task_consumer.cancel()

        consumer.call_soon(cancel)

    def _drain(self) -> None:
        """Take nothing new, let the grace pass or the work end, give back the rest, then end Celery's loop."""
        self._is_draining.set()
        if self._controller is not None and self._controller.consumer is not None:
            self._unsubscribe(self._controller.consumer)
        grace_until = time.monotonic() + self._settings.stop_grace_s
        while self._running.count and time.monotonic() < grace_until:
            time.sleep(0.02)
        self._must_give_back.set()
        self._running.cancel_all()
        # What waits for a broker that is away is given up here; whoever takes the command next does the work again.
        self._publisher.close()
        celery.worker.state.should_stop = 0
        hub = self._controller.hub if self._controller else None
        if hub is not None:
            hub.call_soon(lambda: None)  # The loop sleeps until something happens: make something happen.


def make_app(settings: Settings, role: WorkerRole, strategy: Callable[..., Any]) -> Celery:
    """Make the Celery app of a role: one queue, one task, and everything that keeps state elsewhere switched off."""
    app = Celery(f"trim.{role}", set_as_current=False)
    queue = Topology(settings.queue_prefix).queue(role)
    app.conf.update(
        broker_url=broker_url(settings),
        broker_transport=broker_transport(settings),
        broker_transport_options=broker_options(settings),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_queues=[queue],
        task_default_queue=queue.name,
        task_create_missing_queues=False,
        task_acks_late=True,
        task_ignore_result=True,
        result_backend=None,
        worker_prefetch_multiplier=1,
        # The quorum detection is right that prefetch must be per consumer, and wants 28 queues for delayed delivery,
        # which nobody here uses: the consumer class below leaves that part out.
        worker_detect_quorum_queues=True,
        worker_enable_prefetch_count_reduction=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )

    class _Command(Task):  # type: ignore[misc]
        """The one thing that workers do. Never called: its strategy takes the messages."""

        name = COMMAND

        def start_strategy(self, app: Celery, consumer: Consumer, **_options: object) -> Callable[..., None]:
            return strategy(self, app, consumer)  # type: ignore[no-any-return]

        def run(self) -> None:
            """Do nothing."""

    app.register_task(_Command())
    return app


def wait_for_broker(settings: Settings) -> None:
    """Wait, with back-off, until the broker answers, and declare the queues."""
    attempt = 0
    while True:
        try:
            connection = connect(settings)
            try:
                Topology(settings.queue_prefix).declare(connection)
            finally:
                connection.release()
            return
        except BrokerUnavailable as error:
            delay = RECONNECT_DELAYS_S[min(attempt, len(RECONNECT_DELAYS_S) - 1)]
            attempt += 1
            _log.warning("broker_awaited", code=error.code, detail=explain(error), retry_in_s=delay)
            time.sleep(delay)


def _settle(message: KombuMessage, *, give_back: bool) -> None:
    """Acknowledge a message, or give it back, as far as the connection is still there that it came by."""
    try:
        if give_back:
            message.requeue()
        else:
            message.ack()
    except Exception as error:  # noqa: BLE001 - whatever a broken connection raises: the broker delivers it again
        _log.warning("message_not_settled", reason=type(error).__name__)


def _raw(message: KombuMessage) -> bytes:
    body = message.body
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)


def _consumer_class(bury: Callable[[KombuMessage, str], None]) -> type[Consumer]:
    """Make Celery's consumer with what is not needed left out, and with dead letters instead of log lines."""

    class _CommandConsumer(Consumer):  # type: ignore[misc]
        class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
            default_steps = (
                "celery.worker.consumer.connection:Connection",
                "celery.worker.consumer.mingle:Mingle",
                "celery.worker.consumer.tasks:Tasks",
                "celery.worker.consumer.consumer:Evloop",
            )

        def on_unknown_message(self, _body: object, message: KombuMessage) -> None:
            bury(message, "it does not say what it is")

        def on_unknown_task(self, _body: object, message: KombuMessage, _error: Exception) -> None:
            bury(message, "it is no command")

        def on_invalid_task(self, _body: object, message: KombuMessage, error: Exception) -> None:
            bury(message, f"it could not be taken ({type(error).__name__})")

        def on_decode_error(self, message: KombuMessage, error: Exception) -> None:
            bury(message, f"it could not be decoded ({type(error).__name__})")

    return _CommandConsumer
