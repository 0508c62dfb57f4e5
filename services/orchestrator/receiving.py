"""Decodes what arrives on the orchestrator's queue; what it cannot use becomes a dead letter with the reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from shared.bus.consumer import Delivery
from shared.bus.signing import UNSIGNED, MessageKeys
from shared.bus.topology import DELIVERY_LIMIT, EVENTS, DeadLetter, decode_from, delivered_too_often
from shared.log import about_message, get_logger
from shared.messages import Event, UndecodableMessage, WorkerSeen
from shared.store.port import SeenProcess

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Heard:
    """An event as it was delivered."""

    delivery: Delivery
    event: Event

    @property
    def problem_id(self) -> UUID | None:
        """Id of the problem whose event this is; `None` for a heartbeat."""
        return None if isinstance(self.event, WorkerSeen) else self.event.problem_id


def receive(deliveries: Iterable[Delivery], keys: MessageKeys = UNSIGNED) -> tuple[list[Heard], list[DeadLetter]]:
    """Check the signatures of deliveries and decode them; return the events, and dead letters for the others."""
    heard: list[Heard] = []
    buried: list[DeadLetter] = []
    for delivery in deliveries:
        if delivery.deliveries > DELIVERY_LIMIT:
            buried.append(bury(delivery, delivered_too_often(delivery.deliveries)))
            continue
        if (flaw := keys.find_flaw(delivery.body, delivery.signature)) is not None:
            buried.append(bury(delivery, flaw))
            continue
        try:
            heard.append(Heard(delivery, decode_from(EVENTS, delivery.body)))  # type: ignore[arg-type]
        except UndecodableMessage as error:
            with about_message(error.message):
                buried.append(bury(delivery, error.reason))
    return heard, buried


def seen_process(event: WorkerSeen, *, now: datetime) -> SeenProcess:
    """Return the row that a heartbeat becomes.

    A worker that does not know the time of the service yet was seen when its heartbeat arrived. None was seen later.
    """
    unfit = event.unfit and replace(event.unfit, since=min(event.unfit.since, now))
    return SeenProcess(
        event.worker,
        role=event.role,
        model=event.model,
        seen_at=now if event.clock_ahead_s is None else min(event.seen_at, now),
        unfit=unfit,
        clock_ahead_s=event.clock_ahead_s,
        completes_prefixes=event.completes_prefixes,
    )


def bury(delivery: Delivery, reason: str) -> DeadLetter:
    """Make a dead letter of a delivery."""
    _log.error("message_buried", queue=EVENTS, reason=reason)
    return DeadLetter(EVENTS, delivery.body, reason, delivery.signature)
