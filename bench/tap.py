"""Counts messages on RabbitMQ with plain AMQP."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from shared.bus.connection import connect
from shared.settings import Settings

Binding = tuple[str, str]
"""Exchange name and routing key."""


class Tap:
    """A queue that receives a copy of every message while the block runs; its length is the count.

    A message counts once, however many queues it goes to. Copies cost the broker time, so do not use it in timed runs.
    The queue is exclusive: RabbitMQ deletes it with its connection.
    """

    def __init__(self, settings: Settings, bindings: Sequence[Binding]) -> None:
        """Prepare.

        Args:
            settings: Settings with the broker's URL.
            bindings: Messages to count; the exchanges must exist.
        """
        self._settings = settings
        self._bindings = bindings
        self._name = f"{settings.queue_prefix}.tap"

    def __enter__(self) -> Self:
        """Start counting."""
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

    def drain(self) -> list[bytes]:
        """Take the bodies of the messages so far."""
        channel = self._connection.default_channel
        bodies: list[bytes] = []
        while (message := channel.basic_get(self._name, no_ack=True)) is not None:
            body = message.body
            bodies.append(body.encode() if isinstance(body, str) else bytes(body))
        return bodies
