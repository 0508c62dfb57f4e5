"""Connections to the broker, RabbitMQ or pgmq."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from amqp.exceptions import AccessRefused, NotAllowed, PreconditionFailed
from kombu.connection import Connection
from kombu.exceptions import OperationalError as KombuOperationalError

from shared.errors import PermanentError, RefusedError, RetryableError
from shared.postgres_refusals import is_refusal
from shared.settings import Settings, UnusableSetting

_CONNECT_TIMEOUT_S = 5
_WRITE_TIMEOUT_S = 10

CLOSE_TIMEOUT_S = 2.0
"""Seconds that a closing connection waits for the broker to confirm."""

HEARTBEAT_S = 30
"""AMQP heartbeat of consuming connections, in seconds. Without it the broker would hold the messages of a frozen
process, or of a host that lost its power. RabbitMQ cuts a connection from which it hears nothing for two to three
heartbeats. Publishing connections need none: they hold no messages, and time out when a confirm is missing."""

HEARTBEAT_CHECKS = 4
"""Checks of a worker's connection in the time of one heartbeat. At least every second check sends one, so the loop may
stall for one and a half heartbeats, 45 s, before RabbitMQ cuts it: no engine may hold the interpreter for that long."""


class BrokerUnavailable(RetryableError):
    """The broker does not answer; check TRIM_BROKER_URL and that the server runs."""

    code = "broker_unavailable"


class BrokerBlocked(BrokerUnavailable):
    """The broker accepts no messages, because it is short of memory or disk; free some, and see its alarms."""

    code = "broker_blocked"


class MessageTooLarge(BrokerUnavailable):
    """The broker refuses a message for its size; set its max_message_size to 16777216 (16 MiB) or more."""

    code = "message_too_large"


class BrokerForbids(BrokerUnavailable):
    """The broker forbids an operation; grant the user of TRIM_BROKER_URL the permission that it names."""

    code = "broker_forbids"


class BrokerRefused(BrokerUnavailable, RefusedError):
    """The broker refuses the user, the password or the virtual host of TRIM_BROKER_URL; correct it and restart."""

    code = "broker_refused"


class BadBrokerUrl(PermanentError):
    """TRIM_BROKER_URL is neither amqp://user:password@host:port/vhost nor pgmq://user:password@host:port/database."""

    code = "bad_broker_url"


def broker_options(settings: Settings) -> dict[str, Any]:
    """Return the transport options of Kombu and Celery for the broker of the settings.

    Raises:
        BadBrokerUrl: The URL names no broker that is supported.
        MissingSetting: There is no URL.
        UnusableSetting: pgmq is not installed.
    """
    if not is_pgmq(settings):
        return {"connect_timeout": _CONNECT_TIMEOUT_S, "write_timeout": _WRITE_TIMEOUT_S}
    return {
        "conn_string": pgmq_conninfo(settings),
        "init_extension": False,
        # Reads that NOTIFY wakes: an idle queue costs one query a second, and a message waits milliseconds.
        "use_notify": True,
        "wait_time_seconds": 0,
        "polling_interval": 1.0,
        "visibility_timeout": settings.visibility_timeout_s,
        "pool_size": 4,
        "pool_timeout": _CONNECT_TIMEOUT_S,
    }


def check_broker(settings: Settings) -> None:
    """Check that the settings name a broker whose libraries are installed; nothing connects.

    Raises:
        BadBrokerUrl: The URL names no broker that is supported.
        MissingSetting: There is no URL.
        UnusableSetting: pgmq is not installed.
    """
    broker_options(settings)


def broker_url(settings: Settings) -> str:
    """Return the URL for Kombu and Celery; for pgmq the options hold the address."""
    return "pgmq://localhost" if is_pgmq(settings) else settings.require_broker_url()


def broker_transport(settings: Settings) -> str | None:
    """Return the transport class for Kombu and Celery, if it is not the one that the URL implies."""
    return "shared.bus.pgmq_transport:Transport" if is_pgmq(settings) else None


@contextmanager
def answering(connection: Connection) -> Iterator[None]:
    """Have RabbitMQ answer what is sent in the block within seconds; otherwise the connection counts as broken.

    A broker that hangs would hold up the thread for ever, and with it the heartbeats that find that out.
    """
    if connection.transport.driver_type != "amqp":
        yield
        return
    with connection.connection.transport.having_timeout(_CONNECT_TIMEOUT_S):
        yield


def connect(
    settings: Settings,
    *,
    heartbeat_s: float = 0,
    on_blocked: Callable[[], object] | None = None,
    on_unblocked: Callable[[], object] | None = None,
) -> Connection:
    """Open a connection for one thread; the caller closes it.

    Args:
        settings: Where the broker is.
        heartbeat_s: If not 0, the caller promises to call `heartbeat_check` every second or so.
        on_blocked: Is called if RabbitMQ reports, while the caller drains events, that it accepts no messages.
        on_unblocked: Is called once it accepts them again.

    Raises:
        BrokerUnavailable: The broker does not answer.
        BrokerRefused: It refuses the user, the password or the virtual host.
    """
    options = broker_options(settings)
    if on_blocked is not None and not is_pgmq(settings):
        options |= {"on_blocked": lambda _reason: on_blocked(), "on_unblocked": on_unblocked}
    connection = Connection(
        broker_url(settings),
        heartbeat=heartbeat_s,
        transport=broker_transport(settings),
        transport_options=options,
    )
    try:
        if is_pgmq(settings):
            pgmq_server().install_schema(pgmq_conninfo(settings))
        connection.connect()
    except broker_errors(connection) as error:
        connection.release()
        raise refused_or_unavailable(error) from error
    return connection


def _is_refusal(error: Exception) -> bool:
    """Whether a new connection was refused for what the URL holds, and not because the virtual host is down or full."""
    reason = str(error)
    if isinstance(error, NotAllowed):
        return "not found" in reason or "refused for user" in reason
    return isinstance(error, AccessRefused) or is_refusal(reason)


def refused_or_unavailable(error: Exception) -> BrokerUnavailable:
    """Return the error to raise for one of `broker_errors` on a connection that could not be opened."""
    return BrokerRefused() if _is_refusal(error) else BrokerUnavailable()


def unavailable(error: Exception) -> BrokerUnavailable:
    """Return the error to raise for one of `broker_errors` on an open connection."""
    if isinstance(error, PreconditionFailed) and "message size" in str(error):
        return MessageTooLarge()
    return BrokerForbids() if isinstance(error, AccessRefused) else BrokerUnavailable()


def close(connection: Connection, *, first: Callable[[], None] | None = None) -> None:
    """Close a connection in order, or cut it if the broker does not answer.

    A broker under a memory or disk alarm reads nothing from publishers, so it never confirms their close.

    Args:
        connection: The connection; no other thread may use it.
        first: Frames to send before the close; errors of a broken connection are ignored.
    """

    def close_in_order() -> None:
        with suppress(*broker_errors(connection)):
            if first is not None:
                first()
        with suppress(*broker_errors(connection)):
            connection.release()

    thread = threading.Thread(target=close_in_order, name="close", daemon=True)
    thread.start()
    thread.join(CLOSE_TIMEOUT_S)
    if thread.is_alive() and (line := getattr(connection._connection, "sock", None)) is not None:  # noqa: SLF001
        with suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)


def broker_errors(connection: Connection) -> tuple[type[Exception], ...]:
    """List the exceptions of a connection whose broker disconnects, refuses, or does not answer."""
    driver_errors = getattr(connection.get_transport_cls(), "driver_errors", ())  # of pgmq
    return (*connection.connection_errors, *connection.channel_errors, *driver_errors, KombuOperationalError, OSError)


def is_pgmq(settings: Settings) -> bool:
    """Tell whether the broker is pgmq rather than RabbitMQ.

    Raises:
        BadBrokerUrl: It is neither.
    """
    try:
        url = urlsplit(settings.require_broker_url())
        is_usable = url.scheme == "pgmq" or (url.scheme in ("amqp", "amqps") and url.hostname and url.port != 0)
    except ValueError:  # of the port; it may quote what follows a colon in a password
        raise BadBrokerUrl from None
    if not is_usable:
        raise BadBrokerUrl
    return url.scheme == "pgmq"


def pgmq_conninfo(settings: Settings) -> str:
    """Return the connection string of pgmq's database for psycopg.

    Raises:
        BadBrokerUrl: The URL names no database.
        UnusableSetting: pgmq is not installed.
    """
    url = settings.require_broker_url()
    conninfo: str | None = pgmq_server().conninfo_of(url, connect_timeout_s=_CONNECT_TIMEOUT_S)
    if conninfo is None:
        raise BadBrokerUrl
    return conninfo


def pgmq_server() -> ModuleType:
    """Import what needs pgmq and the Postgres driver; a worker on RabbitMQ has neither.

    Raises:
        UnusableSetting: pgmq is not installed.
    """
    try:
        from shared.bus import pgmq_server as server  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise UnusableSetting(
            f"TRIM_BROKER_URL names pgmq, which needs {error.name}, and that is not installed here; install it with"
            " pip install '.[pgmq]', or set TRIM_BROKER_URL to amqp://..."
        ) from None
    return server
