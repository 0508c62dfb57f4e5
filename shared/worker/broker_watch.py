"""Watches a worker's two connections to the broker, on which it takes commands and publishes, for its health."""

from __future__ import annotations

from typing import Final

from shared.errors import TrimError, explain
from shared.observe.health import Health

BEAT_S: Final = 1.0
"""Seconds between two beats of Celery's loop while no messages arrive."""

LOOP_LIMIT_S: Final = 60.0
"""Seconds without a beat after which Celery's loop counts as stalled."""


class BrokerWatch:
    """Keeps the condition `broker`, and the beat of Celery's loop while it is connected."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._loop = health.loop("celery", limit_s=LOOP_LIMIT_S)
        self._why_not_consuming: str | None = "No connection to the broker has been made yet."
        self._why_not_publishing: str | None = None

    def beat(self) -> None:
        """Record that Celery's loop makes progress."""
        self._loop.beat()

    def on_connected(self) -> None:
        """Record that Celery consumes."""
        self._loop.beat()
        self._why_not_consuming = None
        self._report()

    def on_lost(self, error: Exception) -> None:
        """Record that Celery lost its connection, or cannot make one; it tries again until the process ends."""
        self._loop.pause()
        # Not the error's words: they may hold the broker's URL.
        self._why_not_consuming = (
            f"The connection to the broker was lost ({type(error).__name__}); check that the server of TRIM_BROKER_URL"
            " runs."
        )
        self._report()

    def on_waiting(self, error: TrimError) -> None:
        """Record what is missing on the broker; Celery does not consume yet."""
        self._loop.pause()
        self._why_not_consuming = explain(error)
        self._report()

    def on_publishing(self, failure: TrimError | None) -> None:
        """Record whether the last attempt to publish failed."""
        self._why_not_publishing = None if failure is None else explain(failure)
        self._report()

    def _report(self) -> None:
        why_not = self._why_not_consuming or self._why_not_publishing
        if why_not is None:
            self._health.meet("broker", "Commands are consumed, and events are published.")
        else:
            self._health.miss("broker", why_not)
