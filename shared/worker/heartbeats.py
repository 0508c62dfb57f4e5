"""The heartbeats of a worker: they show that it runs, whether it is fit, and how far its clock is ahead."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from shared.clock import ServiceClock
from shared.domain.fitness import Unfit
from shared.domain.roles import WorkerRole
from shared.messages import WorkerSeen
from shared.observe.health import Health
from shared.settings import Settings
from shared.worker.results import Publisher

HEARTBEAT_LIMIT_S: Final = 60.0
"""Seconds without a round, besides its pauses, after which the thread that sends heartbeats counts as stalled."""


class Heartbeats:
    """Sends heartbeats from its own thread, at intervals and at once when there is news."""

    def __init__(
        self,
        settings: Settings,
        role: WorkerRole,
        health: Health,
        *,
        clock: ServiceClock,
        model: Callable[[], str],
        unfit: Callable[[], Unfit | None],
    ) -> None:
        """Prepare to send.

        Args:
            settings: The name of the process, and the interval.
            role: Its role.
            health: Watches the loop.
            clock: The clock of the service.
            model: Returns the name of the model.
            unfit: Returns why the worker takes no commands, if it does not.
        """
        self._settings = settings
        self._role = role
        self._clock = clock
        self._model = model
        self._unfit = unfit
        self._news = threading.Event()
        self._has_ended = False
        self._last: Future[None] | None = None
        self._loop = health.loop("heartbeat", limit_s=settings.heartbeat_s + HEARTBEAT_LIMIT_S)

    def send_now(self) -> None:
        """Have a heartbeat sent without waiting for the next one's time."""
        self._news.set()

    def end(self) -> None:
        """Send no more heartbeats."""
        self._has_ended = True
        self._news.set()

    def run(self, publisher: Publisher, before_each: Callable[[], bool]) -> None:
        """Send heartbeats until the end, or until `before_each` returns `False`.

        At most one heartbeat is queued while the broker is unreachable.
        """
        while not self._has_ended:
            self._news.clear()
            self._loop.beat()
            if not before_each():
                break
            if self._last is None or self._last.done():
                self._last = publisher.publish(self.heartbeat())
            self._news.wait(self._settings.heartbeat_s)
        self._loop.pause()

    def heartbeat(self) -> WorkerSeen:
        """Return what the worker reports now."""
        return WorkerSeen(
            role=self._role,
            worker=self._settings.node_name,
            model=self._model(),
            seen_at=self._clock.now(),
            clock_ahead_s=self._clock.ahead_s,
            unfit=self._unfit(),
            completes_prefixes=True,
        )
