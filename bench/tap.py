"""Counts messages at RabbitMQ itself, with nothing but AMQP."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from shared.bus.connection import connect
from shared.settings import Settings

Binding = tuple[str, str]
"""Name of an exchange, and a routing key."""


class Tap:
    """A queue that RabbitMQ puts a copy of every message into, for as long as the block does: its length is the count.

    A message counts once, however many queues it goes to. The copies cost the broker something: not for runs that are
    timed. The queue is exclusive, so it goes with its connection whatever happens.
    """

    def __init__(self, settings: Settings, bindings: Sequence[Binding]) -> None:
        """Prepare.

        Args:
            settings: Where the broker is.
            bindings: Which messages to count; the exchanges exist.
        """
        self._settings = settings
        self._bindings = bindings
        self._name = f"{settings.queue_prefix}.tap"

    def __enter__(self) -> Self:
        """Start to count."""
        self._connection = connect(self._settings)
        channel = self._connection.default_channel
        channel.queue_declare(queue=self._name, exclusive=True)
        for exchange, routing_key in self._bindings:
            channel.queue_bind(self._name, exchange, routing_key)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the queue."""
        self._connection.release()

    def count(self) -> int:
        """Count the messages so far."""
        declared = self._connection.default_channel.queue_declare(queue=self._name, passive=True)
        return int(declared.message_count)
