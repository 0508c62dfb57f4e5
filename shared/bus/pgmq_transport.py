"""Kombu's pgmq transport, made safe for processes that start at the same moment.

Kombu enables a queue's notifications whenever the queue is declared or consumed from, by dropping and creating a
trigger. Two processes that do so at once fail with an error that Celery treats as fatal. This transport does it once
for each queue, one process at a time.
"""

from __future__ import annotations

import warnings
from typing import Any

import psycopg
from kombu.transport import pgmq

# Kombu already calls it as the warning recommends.
warnings.filterwarnings("ignore", message=r"list_queues\(\) now returns", category=UserWarning)

MAX_WAIT_S = 0.5
"""Maximum wait for messages. Celery waits 2 s for a transport without a file descriptor before it checks for a stop."""

_NOTIFY_LOCK = 0x7472_6E6F
_HAS_TRIGGER = """
SELECT 1 FROM pg_trigger
WHERE tgrelid = to_regclass(%s) AND tgname = 'trigger_notify_queue_insert_listeners'
"""


class Channel(pgmq.Channel):
    """A channel that enables notifications only where they are missing, and broadcasts messages with headers."""

    def _maybe_enable_notify(self, queue: str, queue_name: str | None = None) -> None:
        name = queue_name or self._queue_name(queue)
        pool = self.pgmq.pool
        assert pool is not None, "an open client has its pool"
        with pool.connection() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_NOTIFY_LOCK])
            if connection.execute(_HAS_TRIGGER, [f'pgmq."q_{name}"']).fetchone() is None:
                self.pgmq.enable_notify(name, throttle_interval_ms=0, conn=connection)
        self.connection._register_notify_queue(name)  # noqa: SLF001 - as the overridden method does

    def _put_fanout(self, exchange: str, message: dict[str, Any], routing_key: str, **kwargs: object) -> None:  # noqa: ARG002
        # Of the forms of `send_topic`, the one with headers takes a delay.
        sending = {"delay": 0, **self._pgmq_send_kwargs(message)}
        self.pgmq.send_topic(self._fanout_topic_key(exchange), message, **sending)


class Transport(pgmq.Transport):
    """The transport with that channel, and with waits short enough for a prompt stop."""

    Channel = Channel
    driver_errors = (psycopg.Error,)
    """What the driver raises besides `connection_errors`, such as for a queue that was dropped."""

    def drain_events(self, connection: object, timeout: float | None = None, **_more: object) -> None:
        """Wait for messages; raises `TimeoutError` if none arrives within `MAX_WAIT_S`."""
        timeout = MAX_WAIT_S if timeout is None else min(timeout, MAX_WAIT_S)
        super().drain_events(connection, timeout=timeout)  # type: ignore[no-untyped-call]
