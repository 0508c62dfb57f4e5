"""Notes when workers' reports reach RabbitMQ's consumers, with plain AMQP."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from shared.bus.connection import connect
from shared.bus.topology import EVENTS, Topology
from shared.messages import StepsScored, decode
from shared.settings import Settings


class ReportTimes:
    """A queue that receives a copy of every event while the block runs, and the moment at which each arrived."""

    def __init__(self, settings: Settings) -> None:
        """Prepare; the queues of the settings must exist."""
        self._settings = settings
        self._heard: list[tuple[float, Any]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._is_ready = threading.Event()

    def __enter__(self) -> Self:
        """Start to note."""
        self._thread.start()
        assert self._is_ready.wait(60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the queue."""
        self._stopping.set()
        self._thread.join()

    def read(self) -> dict[tuple[UUID, int], float]:
        """Return when the first report of each step arrived, on the monotonic clock, by problem and index."""
        times: dict[tuple[UUID, int], float] = {}
        for at, body in self._heard:
            event = decode(body)
            if isinstance(event, StepsScored):
                for draft in event.drafts:
                    times.setdefault((event.problem_id, draft.index), at)
        return times

    def _hear(self) -> None:
        queue = Topology(self._settings.queue_prefix).queue(EVENTS)
        name = f"{self._settings.queue_prefix}.times"
        with connect(self._settings) as connection:
            channel = connection.default_channel
            channel.queue_declare(queue=name, exclusive=True)
            channel.queue_bind(name, queue.exchange.name, queue.routing_key)
            channel.basic_consume(name, no_ack=True, callback=self._note)
            self._is_ready.set()
            while not self._stopping.is_set():
                with suppress(TimeoutError):
                    connection.drain_events(timeout=0.2)

    def _note(self, message: Any) -> None:
        # Decoded later, because clients of the benchmark share the process.
        self._heard.append((time.monotonic(), message.body))
