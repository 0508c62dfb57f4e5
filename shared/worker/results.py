"""The results of one command: published at once, and settled with the broker's confirmation."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

from shared.bus.topology import ReturnedCommand
from shared.messages import Message


class Settle(Protocol):
    """Acknowledges a command, or requeues it."""

    def __call__(self, *, requeue: bool) -> None:
        """Settle the command."""


class Publisher(Protocol):
    """Publishes messages for many threads."""

    def publish(self, *messages: Message | ReturnedCommand) -> Future[None]:
        """Publish messages; the future is done when the broker has confirmed them."""


class Results:
    """Publishes the results of one command and tracks which of them the broker has confirmed."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._published: list[Future[None]] = []

    def publish(self, message: Message | ReturnedCommand) -> None:
        """Publish a message without waiting for the broker's confirmation."""
        self._published.append(self._publisher.publish(message))

    def are_confirmed(self) -> bool:
        """Tell whether the broker has confirmed everything that was published."""
        return all(future.done() for future in self._published)

    def when_confirmed(self, settle: Settle) -> None:
        """Settle the command once the broker has confirmed all results, without blocking a thread.

        If the process stops first, the command is requeued, and another worker does the work again.
        """

        def conclude(_last: object = None) -> None:
            settle(requeue=any(future.exception() for future in self._published))

        if self._published:
            self._published[-1].add_done_callback(conclude)  # Futures complete in the order of publication.
        else:
            conclude()
