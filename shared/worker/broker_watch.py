"""Watches a worker's two connections to the broker, on which it takes commands and publishes, for its health."""

from __future__ import annotations

import time
from collections import deque
from typing import Final

from amqp.exceptions import PreconditionFailed

from shared.backoff import RECONNECT
from shared.bus.connection import broker_errors, connect, unavailable
from shared.bus.declaring import Declarer
from shared.errors import RefusedError, RetryableError, TrimError, explain
from shared.log import get_logger
from shared.observe.health import Health
from shared.settings import Settings

BEAT_S: Final = 1.0
"""Seconds between two beats of Celery's loop while no messages arrive."""

LOOP_LIMIT_S: Final = 60.0
"""Seconds without a beat after which Celery's loop counts as stalled."""

REMEMBERED_LOSSES: Final = 100
"""Number of lost connections that a worker remembers."""

_log = get_logger(__name__)


class BrokerWatch:
    """Keeps the condition `broker`, and the beat of Celery's loop while it is connected."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._loop = health.loop("celery", limit_s=LOOP_LIMIT_S)
        self._why_not_consuming: str | None = "No connection to the broker has been made yet."
        self._why_not_publishing: str | None = None
        self.losses = 0
        """Number of times that the connection was lost."""
        self.lost_at: deque[float] = deque(maxlen=REMEMBERED_LOSSES)
        """When that was, on the monotonic clock; the newest ones."""

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
        if self._why_not_consuming is None:
            self.losses += 1
            self.lost_at.append(time.monotonic())
        # Not the error's words: they may hold the broker's URL.
        if isinstance(error, PreconditionFailed) and "acknowledgement" in str(error):
            self._why_not_consuming = (
                "A command took longer than the consumer_timeout of RabbitMQ, which closed the channel; raise it, or"
                " lower TRIM_STRETCH_S or step_timeout_s."
            )
        else:
            self._why_not_consuming = (
                f"The connection to the broker was lost ({type(error).__name__}); check that the server of"
                " TRIM_BROKER_URL runs."
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


def wait_for_broker(settings: Settings, declarer: Declarer, health: Health) -> None:
    """Wait with back-off until the broker answers and has the queues.

    Raises:
        BrokerRefused, QueueDiffers: Waiting does not help.
    """
    attempt = 0
    while True:
        try:
            connection = connect(settings)
            try:
                declarer.declare(connection)
            except broker_errors(connection) as error:
                raise unavailable(error) from error
            finally:
                connection.release()
            return
        except RefusedError:
            raise
        except RetryableError as error:
            health.miss("broker", explain(error))
            time.sleep(log_wait(error, attempt))
            attempt += 1


def log_wait(error: RetryableError, attempt: int) -> float:
    """Log what the worker waits for; return the seconds until its next attempt."""
    delay_s = RECONNECT.delay_s(attempt)
    _log.warning("broker_awaited", code=error.code, detail=explain(error), retry_in_s=round(delay_s, 2))
    return delay_s
