"""The Celery app of a worker: one queue, one task, and everything switched off that keeps state elsewhere.

Celery does what it is good at: the connection and its repair, prefetch, the pool of threads, late acknowledgement. Its
message envelope, results, retries, events and remote control are not used: a command on the wire is the contract's JSON
and nothing else, and state is in Postgres.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar

from amqp.exceptions import AccessRefused
from celery import Celery, Task
from celery.worker.consumer import Consumer
from celery.worker.consumer.tasks import Tasks
from kombu.asynchronous.hub import Hub
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.message import Message as KombuMessage

from shared.backoff import RECONNECT
from shared.bus.connection import HEARTBEAT_CHECKS, HEARTBEAT_S, answering, broker_options, broker_transport, broker_url
from shared.bus.topology import COMMAND, Topology
from shared.domain.roles import WorkerRole
from shared.errors import TrimError
from shared.settings import Settings
from shared.worker.broker_watch import BEAT_S, BrokerWatch

_CUT_SHORT = ("celery.worker.loops", "celery.worker.consumer.consumer")
"""Celery's loggers of lost connections: they name the error in the line, and add its stack trace."""


def _leave_out_trace(record: logging.LogRecord) -> bool:
    record.exc_info = record.exc_text = None
    return True


def make_app(  # long: all that differs from Celery's defaults
    settings: Settings, role: WorkerRole, strategy: Callable[..., Any]
) -> Celery:
    """Make the app of a role; `strategy` makes the function that receives each message."""
    for name in _CUT_SHORT:
        logging.getLogger(name).addFilter(_leave_out_trace)
    app = Celery(f"trim.{role}", set_as_current=False)
    queue = _undeclared(Topology(settings.queue_prefix).queue(role))
    app.conf.update(
        broker_url=broker_url(settings),
        broker_transport=broker_transport(settings),
        broker_transport_options=broker_options(settings),
        broker_heartbeat=HEARTBEAT_S,
        broker_heartbeat_checkrate=HEARTBEAT_CHECKS,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # RabbitMQ closes the channel of a consumer that has not acknowledged a message for its `consumer_timeout`.
        broker_channel_error_retry=True,
        task_queues=[queue],
        task_default_queue=queue.name,
        task_create_missing_queues=False,
        task_acks_late=True,
        task_ignore_result=True,
        result_backend=None,
        worker_prefetch_multiplier=1,
        # The quorum detection rightly sets prefetch per consumer. It also wants 28 queues for delayed delivery, which
        # nothing here uses: `make_consumer_class` leaves that part out.
        worker_detect_quorum_queues=True,
        worker_enable_prefetch_count_reduction=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )

    class _Command(Task):  # type: ignore[misc]
        """The one task. Celery never calls it: its strategy receives the messages."""

        name = COMMAND

        def start_strategy(self, app: Celery, consumer: Consumer, **_options: object) -> Callable[..., None]:
            return strategy(self, app, consumer)  # type: ignore[no-any-return]

        def run(self) -> None:
            """Do nothing."""

    app.register_task(_Command())
    return app


def _undeclared(queue: Queue) -> Queue:
    """Keep Celery from declaring a queue: `make_consumer_class` does so, also for users who may not."""
    queue.no_declare = True  # type: ignore[attr-defined]
    return queue


def make_consumer_class(  # long: Celery takes a class, with all that it calls
    bury: Callable[[Consumer, KombuMessage, str], None],
    watch: BrokerWatch,
    *,
    declare: Callable[[Connection], None],
    fail: Callable[[Exception], None],
    wants: Callable[[], bool],
    is_silent: Callable[[], bool],
    pause: Callable[[float], object],
) -> type[Consumer]:
    """Make Celery's consumer without the parts that are not needed, and with dead letters instead of log lines.

    Args:
        bury: Called with each message that Celery cannot use, and the reason.
        watch: Gets the beats of the loop, and whether it is connected.
        declare: Declares the queues whenever the worker has connected.
        fail: Ends the worker with an error after which a new connection does not help.
        wants: Tells whether the worker takes commands.
        is_silent: Tells whether the worker has room for commands, and none has come for long.
        pause: Waits for some seconds, or until the worker stops.
    """

    class _Commands(Tasks):  # type: ignore[misc]
        def start(self, consumer: Consumer) -> None:
            declare(consumer.connection)
            queues, queue = consumer.app.amqp.queues, consumer.app.conf.task_default_queue
            if wants():
                queues.select_add(queues[queue])
            else:
                queues.deselect(queue)
            super().start(consumer)

    class _CommandConsumer(_WatchedConsumer):
        class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
            default_steps = (
                "celery.worker.consumer.connection:Connection",
                "celery.worker.consumer.mingle:Mingle",
                _Commands,
                "celery.worker.consumer.consumer:Evloop",
            )

        def start(self) -> None:
            try:
                super().start()
            except (TrimError, AccessRefused) as error:
                fail(error)

        def on_unknown_message(self, _body: object, message: KombuMessage) -> None:
            bury(self, message, "it has no task header")

        def on_unknown_task(self, _body: object, message: KombuMessage, _error: Exception) -> None:
            bury(self, message, "its task header names no command")

        def on_invalid_task(self, _body: object, message: KombuMessage, error: Exception) -> None:
            bury(self, message, f"Celery refused it ({type(error).__name__})")

        def on_decode_error(self, message: KombuMessage, error: Exception) -> None:
            bury(self, message, f"it could not be decoded ({type(error).__name__})")

    _CommandConsumer.watch, _CommandConsumer.wants = watch, staticmethod(wants)
    _CommandConsumer.is_silent, _CommandConsumer.pause = staticmethod(is_silent), staticmethod(pause)
    return _CommandConsumer


class _WatchedConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, which reports to the health of the worker, and subscribes to its queue as the worker wants.

    Every beat compares the subscription with what the worker wants, so a change is not lost with a connection. RabbitMQ
    does not always tell a consumer that its queue was deleted, if it is declared again at that moment. So a worker to
    which nothing comes subscribes again.
    """

    watch: ClassVar[BrokerWatch]
    wants: ClassVar[Callable[[], bool]]
    is_silent: ClassVar[Callable[[], bool]]
    pause: ClassVar[Callable[[float], object]]
    _attempt = 0
    """Number of connections in a row that were lost before the loop ran."""

    def on_ready(self) -> None:
        """Report that the loop runs, at the start and after each lost connection."""
        self._attempt = 0
        self.watch.on_connected()
        super().on_ready()

    def on_connection_error_before_connected(self, error: Exception) -> None:
        self.watch.on_lost(error)
        super().on_connection_error_before_connected(error)

    def on_connection_error_after_connected(self, error: Exception) -> None:
        if isinstance(error, AccessRefused):  # A new connection does not help.
            raise error
        self.watch.on_lost(error)
        super().on_connection_error_after_connected(error)
        # Celery waits only while nothing listens, and not if the broker refuses what follows, or cuts the connection.
        type(self).pause(RECONNECT.delay_s(self._attempt))
        self._attempt += 1

    def register_with_event_loop(self, hub: Hub) -> None:
        """Have the loop of RabbitMQ's transport beat."""
        super().register_with_event_loop(hub)
        hub.call_repeatedly(BEAT_S, self._beat)

    def perform_pending_operations(self) -> None:
        """Beat in every round of pgmq's loop, which calls this."""
        self.watch.beat()
        self.follow()
        super().perform_pending_operations()

    def follow(self) -> None:
        """Subscribe to the queue, or cancel the subscription, as the worker wants; for Celery's loop only."""
        queue, wants = self.app.conf.task_default_queue, type(self).wants()
        if self.task_consumer is not None and self.task_consumer.consuming_from(queue) is not wants:
            (self.add_task_queue if wants else self.cancel_task_queue)(queue)

    def _beat(self) -> None:
        self.watch.beat()
        self.call_soon(self.follow)  # An error of a timer would only be logged.
        self.call_soon(self._subscribe_if_silent)

    def _subscribe_if_silent(self) -> None:
        """Subscribe again if the worker wants commands, and none has come for long, also since the beat."""
        queue, is_needed = self.app.conf.task_default_queue, type(self).wants() and type(self).is_silent()
        if is_needed and self.task_consumer is not None and self.task_consumer.consuming_from(queue):
            with answering(self.connection):
                self.cancel_task_queue(queue)
                self.add_task_queue(queue)
