"""Dead letters on RabbitMQ, over AMQP alone.

AMQP cannot look at a message: it takes one from the queue and returns it. RabbitMQ puts what is returned back to its
place, so the order stays. But each return counts as a delivery, and since version 4 a quorum queue drops a message
after 20 of them, for lack of a further dead-letter queue. So a letter that was returned often is published again, with
a count of 0, at the end of its queue. The broker may have either of the two after a crash, or both.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
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

_RETURN_S: Final = 2.0
"""Seconds to wait for letters to be back on their queue. More may be missing if another reader holds some."""

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
        self._channel: Any = None
        """Channel of the letters that are taken: closing it returns those that are not removed."""
        self._removed = 0
        """Number of letters that were removed since the present iteration began."""
        self._removed_last = 0
        """Delivery tag of the last of them."""

    def count(self) -> Mapping[QueueRole, int]:
        """Count the letters that are ready; those that another reader holds at this moment are not."""
        return {role: self._count(role) for role in QUEUES}

    def read(self, role: QueueRole, *, limit: int) -> Generator[Letter, None, None]:
        """Take letters from the queue, and return them to their places at the end."""
        # Those that are published again during the iteration are behind these.
        stored = self._count(role)
        self._removed = self._removed_last = 0
        try:
            with closing(self._connection.channel()) as self._channel:
                self._channel.auto_decode = False
                yield from self._take(role, count=min(limit, stored))
        finally:
            with suppress(*broker_errors(self._connection)):
                self._await_return(role, count=stored - self._removed)

    def remove(self, letter: Letter) -> None:
        """Acknowledge a letter."""
        self._channel.basic_ack(letter.handle)
        self._removed += 1
        self._removed_last = letter.handle

    def _take(self, role: QueueRole, *, count: int) -> Generator[Letter, None, None]:
        queue = self._topology.dead_letters(role).name
        for _ in range(count):
            message = self._channel.basic_get(queue)
            if message is None:
                return
            try:
                yield _letter(role, message)
            except GeneratorExit:  # The caller has seen enough.
                self._keep(queue, message)
                raise
            self._keep(queue, message)

    def _keep(self, queue: str, message: Any) -> None:
        """Publish a letter again that was returned often, unless the caller has removed it."""
        if message.delivery_tag == self._removed_last or _returns(message) < RENEW_AT:
            return
        headers = {name: value for name, value in (message.headers or {}).items() if name not in _COUNTS}
        copy = Message(message.body, **{**message.properties, "application_headers": headers})
        exchange = self._topology.dead_letters("events").exchange.name
        with closing(self._connection.channel()) as channel:
            channel.basic_publish_confirm(copy, exchange, queue, mandatory=True, confirm_timeout=CONFIRM_TIMEOUT_S)
        self._channel.basic_ack(message.delivery_tag)

    def _await_return(self, role: QueueRole, *, count: int) -> None:
        """Wait until the broker has put the letters back: it does so a moment after the channel has closed."""
        until = time.monotonic() + _RETURN_S
        while self._count(role) < count and time.monotonic() < until:
            time.sleep(0.01)

    def _count(self, role: QueueRole) -> int:
        with closing(self._connection.channel()) as channel:
            try:
                return int(self._topology.dead_letters(role)(channel).queue_declare(passive=True).message_count)
            except NotFound:
                return 0


def _letter(role: QueueRole, message: Any) -> Letter:
    headers = {str(name): value for name, value in (message.headers or {}).items()}
    return Letter(role=role, body=_bytes(message.body), headers=headers, handle=message.delivery_tag)


def _bytes(body: str | bytes | memoryview) -> bytes:
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)


def _returns(message: Any) -> int:
    counts = [(message.headers or {}).get(name) for name in _COUNTS]
    return max((count for count in counts if isinstance(count, int)), default=0)
