"""Dead letters on RabbitMQ, over AMQP alone.

AMQP cannot look at a message: it takes one from the queue and returns it. The places of the letters stay, but each
return counts as a delivery, and since version 4 a quorum queue drops a message after 20 of them, for lack of a further
dead-letter queue. So a letter that was returned often is published again, with a count of 0, at the end of its queue.
The broker may have either of the two after a crash, or both.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final

from amqp import Message
from amqp.exceptions import MessageNacked, NotFound
from kombu.connection import Connection

from shared.bus.connection import answering, broker_errors, close, connect, unavailable
from shared.bus.dead_letters import Letter
from shared.bus.publisher import CONFIRM_TIMEOUT_S
from shared.bus.topology import DELIVERY_LIMIT, QUEUES, QueueRole, Topology
from shared.settings import Settings

RENEW_AT: Final = DELIVERY_LIMIT // 2
"""Number of returns after which a letter is published again instead."""

_AT_ONCE: Final = 9
"""Number of letters that one channel takes.

RabbitMQ puts what a closing channel holds back to the head of the queue. It orders that by the text of the delivery
tags, so only the tags 1 to 9 keep the order of the letters. What a client rejects goes to the end of the queue instead.
"""

_PATIENCE_S: Final = 30.0
"""Seconds to wait in total for the broker to put letters back."""

_COUNTS: Final = ("x-delivery-count", "x-acquired-count")
"""Headers in which quorum queues report how often a message was returned."""


@contextmanager
def opened_in_rabbitmq(settings: Settings) -> Iterator[AmqpDeadLetters]:
    """Connect for the block; see `shared.bus.dead_letters.opened`."""
    connection = connect(settings)
    try:
        with answering(connection):
            yield AmqpDeadLetters(connection, Topology(settings.queue_prefix))
    except (*broker_errors(connection), MessageNacked) as error:
        raise unavailable(error) from error
    finally:
        close(connection)


class AmqpDeadLetters:
    """The dead letters of a deployment on RabbitMQ."""

    def __init__(self, connection: Connection, topology: Topology) -> None:
        self._connection = connection
        self._topology = topology
        self._held: dict[int, tuple[Any, int]] = {}
        """Channel and delivery tag of each letter that is taken and stays, by its handle."""

    def count(self) -> Mapping[QueueRole, int]:
        """Count the letters that are ready; those that another reader holds at this moment are not."""
        return {role: self._count(role) for role in QUEUES}

    def read(self, role: QueueRole, *, limit: int) -> Generator[Letter, None, None]:
        """Take letters from the queue, and return them to their places at the end."""
        channels: list[Any] = []
        self._held.clear()
        taken = self._take(role, channels)
        was_returned = False
        try:
            for message, letter in itertools.islice(taken, limit):
                was_returned = _returns(message) > 0
                try:
                    yield letter
                finally:
                    self._keep(message, letter)
        finally:
            # The broker has all that were ever returned at the head of the queue, and puts further ones behind them.
            while was_returned and (further := next(taken, None)):
                was_returned = _returns(further[0]) > 0
                self._keep(*further)
            self._return_held(role, channels)

    def _take(self, role: QueueRole, channels: list[Any]) -> Iterator[tuple[Any, Letter]]:
        """Take the letters that are on the queue now; those that are published again meanwhile are behind these."""
        queue = self._topology.dead_letters(role).name
        for handle in range(self._count(role)):
            if handle % _AT_ONCE == 0:
                channels.append(self._connection.channel())
                channels[-1].auto_decode = False
            message = channels[-1].basic_get(queue)
            if message is None:
                return
            self._held[handle] = channels[-1], message.delivery_tag
            yield message, _letter(role, message, handle)

    def remove(self, letter: Letter) -> None:
        """Acknowledge a letter."""
        self._acknowledge(letter.handle)

    def _acknowledge(self, handle: int) -> None:
        channel, tag = self._held.pop(handle)
        channel.basic_ack(tag)

    def _keep(self, message: Any, letter: Letter) -> None:
        """Publish a letter again that was returned often, unless the caller has removed it."""
        if letter.handle not in self._held or _returns(message) < RENEW_AT:
            return
        headers = {name: value for name, value in (message.headers or {}).items() if name not in _COUNTS}
        copy = Message(message.body, **{**message.properties, "application_headers": headers})
        queue = self._topology.dead_letters(letter.role)
        with closing(self._connection.channel()) as channel:
            channel.basic_publish_confirm(
                copy, queue.exchange.name, queue.name, mandatory=True, confirm_timeout=CONFIRM_TIMEOUT_S
            )
        self._acknowledge(letter.handle)

    def _return_held(self, role: QueueRole, channels: Sequence[Any]) -> None:
        """Close the channels, oldest first, so that RabbitMQ puts what they hold back to its places."""
        until = time.monotonic() + _PATIENCE_S
        present = self._count(role)
        for channel in channels:
            present += sum(holder is channel for holder, _ in self._held.values())
            channel.close()
            # Another reader may hold what was returned, so the number may never be reached.
            while self._count(role) < present and time.monotonic() < until:
                time.sleep(0.002)
        self._held.clear()

    def _count(self, role: QueueRole) -> int:
        with closing(self._connection.channel()) as channel:
            try:
                return int(self._topology.dead_letters(role)(channel).queue_declare(passive=True).message_count)
            except NotFound:
                return 0


def _letter(role: QueueRole, message: Any, handle: int) -> Letter:
    headers = {str(name): value for name, value in (message.headers or {}).items()}
    return Letter(role=role, body=_bytes(message.body), headers=headers, handle=handle)


def _bytes(body: str | bytes | memoryview) -> bytes:
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)


def _returns(message: Any) -> int:
    counts = [(message.headers or {}).get(name) for name in _COUNTS]
    return max((count for count in counts if isinstance(count, int)), default=0)
