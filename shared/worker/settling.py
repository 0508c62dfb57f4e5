"""Settles what Celery's loop has received, from any thread."""

from __future__ import annotations

from celery.worker.consumer import Consumer
from kombu.message import Message as KombuMessage

from shared.log import about_message, get_logger
from shared.messages import Message
from shared.worker.results import Settle

_log = get_logger(__name__)


def settle_in_loop(consumer: Consumer, message: KombuMessage, decoded: Message | None) -> Settle:
    """Return how any thread settles a message: Celery's loop does it, as an AMQP connection is not thread-safe."""

    def settle_here(*, requeue: bool) -> None:
        try:
            _settle(message, requeue=requeue)
        except Exception as error:  # noqa: BLE001 - whatever a broken connection raises: the broker redelivers it
            with about_message(decoded):
                _log.warning("message_not_settled", reason=type(error).__name__)

    def settle(*, requeue: bool) -> None:
        consumer.call_soon_ack(settle_here, requeue=requeue)

    return settle


def _settle(message: KombuMessage, *, requeue: bool) -> None:
    """Acknowledge or requeue a message, on the connection that delivered it."""
    if requeue:
        message.requeue()
    else:
        message.ack()
