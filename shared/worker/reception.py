"""Receives what the broker delivers to a worker, in Celery's loop: runs it, holds it, returns it or buries it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final

from celery import Celery, Task
from celery.worker.consumer import Consumer
from kombu.message import Message as KombuMessage

from shared.bus.publisher import SharedPublisher
from shared.bus.signing import UNSIGNED, MessageKeys, raw, signature_of
from shared.bus.topology import (
    DELIVERY_LIMIT,
    DeadLetter,
    Past,
    ReturnedCommand,
    count_deliveries,
    decode_from,
    past_of,
)
from shared.clock import ServiceClock
from shared.domain.roles import WorkerRole
from shared.engines.port import EngineDead
from shared.log import about_message, get_logger
from shared.messages import Command, Message, UndecodableMessage
from shared.worker.broker_watch import BrokerWatch
from shared.worker.executor import Executor
from shared.worker.quarantine import GUILTY_AT, SUSPECT_AT, Quarantine, Suspect
from shared.worker.results import Settle
from shared.worker.settling import settle_in_loop

LEAVE_S: Final = 15.0
"""Seconds after a lost connection in which a worker leaves redelivered commands to those that may still run them."""

RENEW_AT: Final = DELIVERY_LIMIT // 2
"""Deliveries counted by the broker from which a worker publishes a command again, so that it is never dead-lettered."""

_log = get_logger(__name__)


class Reception:
    """Receives the messages of one worker process."""

    def __init__(  # long: all that a message may need
        self,
        role: WorkerRole,
        executor: Executor,
        publisher: SharedPublisher,
        watch: BrokerWatch,
        clock: ServiceClock,
        *,
        concurrency: int,
        silence_s: float,
        is_draining: Callable[[], bool],
        follow: Callable[[], object],
        on_dead: Callable[[], object],
        keys: MessageKeys = UNSIGNED,
    ) -> None:
        """Prepare to receive.

        Args:
            role: The worker's role.
            executor: Carries out commands.
            publisher: Publishes what goes back, and what is buried.
            watch: Knows the losses of the connection.
            clock: The clock of the service.
            concurrency: Maximum number of commands that run at the same time.
            silence_s: Seconds without a message after which an idle worker counts as silent.
            is_draining: Tells whether the process stops, and takes nothing new.
            follow: Has Celery's loop subscribe to the queue, or cancel the subscription, as the worker wants.
            on_dead: Is called, by any thread, once the engine has broken down.
            keys: Keys that sign messages.
        """
        self._role = role
        self._executor = executor
        self._publisher = publisher
        self._watch = watch
        self._clock = clock
        self._silence_s = silence_s
        self._heard_at = clock.monotonic()
        """When a message came last, or the worker was found silent."""
        self._is_draining = is_draining
        self._on_dead = on_dead
        self._keys = keys
        self._begun: set[Settle] = set()
        """What the pool of threads has, or has not ended."""
        self._left: SimpleQueue[tuple[Callable[[], object], Callable[[], bool]]] = SimpleQueue()
        """How to put back the commands that are left to others, and whether another worker has them by now."""
        self._returning: set[Future[None]] = set()
        self.quarantine = Quarantine(concurrency, open_count=self._count_open, on_change=follow)

    def strategy(self, _task: Task, _app: Celery, consumer: Consumer) -> Callable[..., None]:
        """Make the function with which Celery's loop hands over a message."""

        def receive(message: KombuMessage, *_unused: object) -> None:
            self._heard_at = self._clock.monotonic()
            if self._is_draining():
                consumer.follow()
            try:
                command = self._decode(message)
            except UndecodableMessage as error:
                self._bury(consumer, message, error.reason, error.message)
                return
            self._clock.has_passed(command.issued_at)
            settle = settle_in_loop(consumer, message, command)
            if not self._executor.taken.join(command, settle):
                past = past_of(message, explained=self._losses_since(command))
                is_worn = count_deliveries(message) > RENEW_AT
                self._receive(consumer, command, raw(message), past, settle, is_worn=is_worn)

        return receive

    def _receive(
        self, consumer: Consumer, command: Command, body: bytes, past: Past, settle: Settle, *, is_worn: bool
    ) -> None:
        identity = command.id, command.issued_at
        if is_marked := past.is_marked:
            past = replace(past, is_marked=False)
        put_back = partial(self._put_back, body, past, settle)
        is_stale = partial(self._has_lost_connection, since=self._watch.losses)

        def begin() -> None:
            self._begun.add(settle)
            consumer.pool.apply_async(self._execute, (command, body, past, settle))

        if self._is_draining():
            put_back()
        elif past.alone >= GUILTY_AT:
            with about_message(command):
                self._executor.convict(command, past, publisher=self._publisher, settle=settle)
        elif past.losses >= SUSPECT_AT and self._executor.drops(command):
            begin()
        elif past.losses >= SUSPECT_AT:
            put_back_marked = partial(self._put_back, body, replace(past, is_marked=True), settle)
            self.quarantine.receive(
                Suspect(identity, past.losses, begin, put_back, put_back_marked, is_marked, is_stale)
            )
        elif is_worn:
            put_back()
        elif past.runs and self._may_run_elsewhere(command):
            self._left.put((put_back, is_stale))
        elif self.quarantine.admits(identity):
            begin()
        else:
            put_back()

    def _count_open(self) -> int:
        return self._executor.taken.open_count + len(self._begun) + self._left.qsize() + len(self._returning)

    def is_silent(self) -> bool:
        """Tell whether nothing has come for long although nothing is open; the time begins again then."""
        now = self._clock.monotonic()
        if now - self._heard_at <= self._silence_s or self._count_open():
            return False
        self._heard_at = now
        return True

    def _losses_since(self, command: Command) -> int:
        """Count the deliveries that this worker's own lost connections explain: then nobody need have died."""
        return sum(self._clock.at(moment) >= command.issued_at for moment in self._watch.lost_at)

    def _may_run_elsewhere(self, command: Command) -> bool:
        """Tell whether a command that comes again may run in another worker, which has lost only its connection."""
        lost_at = self._watch.lost_at
        if not lost_at or self._clock.monotonic() - lost_at[-1] >= LEAVE_S:
            return False
        return self._clock.at(lost_at[-1]) >= command.issued_at

    def look(self) -> None:
        """Put back what is left to others, and go on with suspects; call it about once a second."""
        self._put_back_left()
        self.quarantine.look()

    def close(self) -> None:
        """Put back what was not begun, because the process stops."""
        self._put_back_left()
        self.quarantine.close()

    def _put_back_left(self) -> None:
        while True:
            try:
                put_back, is_stale = self._left.get_nowait()
            except Empty:  # Another thread may have taken the last one.
                return
            if not is_stale():
                put_back()

    def _has_lost_connection(self, *, since: int) -> bool:
        return self._watch.losses != since

    def _put_back(self, body: bytes, past: Past, settle: Settle) -> None:
        """Publish a command again that was not begun, and acknowledge it, so that it does not count as lost."""

        def conclude(future: Future[None]) -> None:
            settle(requeue=future.exception() is not None)
            self._returning.discard(future)

        returned = self._publisher.publish(ReturnedCommand(self._role, body, past))
        self._returning.add(returned)
        returned.add_done_callback(conclude)

    def _decode(self, message: KombuMessage) -> Command:
        body = raw(message)
        # Before it is decoded: what a forged command names must not learn of it, or it could be made to fail.
        if (flaw := self._keys.find_flaw(body, signature_of(message))) is not None:
            raise UndecodableMessage(body, flaw)
        return decode_from(self._role, body)  # type: ignore[return-value]

    def bury_unusable(self, consumer: Consumer, message: KombuMessage, reason: str) -> None:
        """Bury a message that Celery cannot use; if another queue carries it, that is the reason."""
        decoded: Message | None = None
        try:
            decoded = self._decode(message)
        except UndecodableMessage as error:
            if error.message is not None:
                reason, decoded = error.reason, error.message
        self._bury(consumer, message, reason, decoded)

    def _bury(self, consumer: Consumer, message: KombuMessage, reason: str, decoded: Message | None = None) -> None:
        """Move an unusable message to the dead letters; it stays unacknowledged until the broker has it there.

        If it is a command all the same, its problem learns of it, and requests the step again.
        """
        with about_message(decoded):
            _log.error("message_buried", queue=self._role, reason=reason)
        settle = settle_in_loop(consumer, message, decoded)
        if isinstance(decoded, Command):
            self._executor.report_buried(decoded, reason, publisher=self._publisher)
        buried = self._publisher.publish(DeadLetter(self._role, raw(message), reason, signature_of(message)))
        buried.add_done_callback(lambda future: settle(requeue=future.exception() is not None))

    def _execute(self, command: Command, body: bytes, past: Past, settle: Settle) -> None:
        """Carry out a command in a thread of the pool; acknowledge it last."""
        with about_message(command):
            try:
                for _ in self._executor.carry_out(command, body, publisher=self._publisher, settle=settle, past=past):
                    pass
            except EngineDead:
                _log.error("engine_died")
                self._on_dead()
            except Exception:  # noqa: BLE001 - the pool would drop it without a word
                _log.exception("command_unreported")
            finally:
                self._begun.discard(settle)
