"""Decodes what arrives on the orchestrator's queue; what it cannot use becomes a dead letter with the reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shared.bus.consumer import Delivery
from shared.bus.topology import DELIVERY_LIMIT, EVENTS, QUEUES, DeadLetter
from shared.log import about_message, get_logger
from shared.messages import Event, UndecodableMessage, decode

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Heard:
    """An event as it was delivered."""

    delivery: Delivery
    event: Event


def receive(deliveries: Iterable[Delivery]) -> tuple[list[Heard], list[DeadLetter]]:
    """Decode deliveries; return the events, and dead letters for the others."""
    heard: list[Heard] = []
    buried: list[DeadLetter] = []
    for delivery in deliveries:
        if delivery.deliveries > DELIVERY_LIMIT:
            buried.append(bury(delivery, f"it was delivered {delivery.deliveries} times and never settled"))
            continue
        try:
            heard.append(Heard(delivery, _decode(delivery.body)))
        except UndecodableMessage as error:
            with about_message(error.message):
                buried.append(bury(delivery, error.reason))
    return heard, buried


def bury(delivery: Delivery, reason: str) -> DeadLetter:
    """Make a dead letter of a delivery."""
    _log.error("message_buried", queue=EVENTS, reason=reason)
    return DeadLetter(EVENTS, delivery.body, reason)


def _decode(raw: bytes) -> Event:
    event = decode(raw)
    if not isinstance(event, QUEUES[EVENTS]):
        raise UndecodableMessage(raw, f"{event.kind} does not belong on this queue", event)
    return event  # type: ignore[return-value]
