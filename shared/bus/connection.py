"""Connections to the broker, whichever of the two it is."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import psycopg
from kombu.connection import Connection
from kombu.exceptions import OperationalError as KombuOperationalError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from shared.errors import PermanentError, RetryableError
from shared.settings import Settings

_INSTALL_LOCK = 0x7472_6971
_CONNECT_TIMEOUT_S = 5
_WRITE_TIMEOUT_S = 10

GOOD_BYE_S = 2.0
"""How long a connection that is closed waits for the broker's good-bye."""

HEARTBEAT_S = 30
"""AMQP heartbeat of connections that consume: without it a server would keep what a host that lost its power had taken.
Those that only publish need none: they hold nothing, and give up a silent server when its confirm does not come."""


class BrokerUnavailable(RetryableError):
    """The broker does not answer; check TRIM_BROKER_URL and that the server runs."""

    code = "broker_unavailable"


class BadBrokerUrl(PermanentError):
    """TRIM_BROKER_URL is neither amqp://user:password@host:port/vhost nor pgmq://user:password@host:port/database."""

    code = "bad_broker_url"


def broker_options(settings: Settings) -> dict[str, Any]:
    """Make the transport options that Kombu and Celery take for the broker of the settings.

    Raises:
        BadBrokerUrl: The URL names no broker that is supported.
        MissingSetting: There is no URL.
    """
    if not is_pgmq(settings):
        return {"connect_timeout": _CONNECT_TIMEOUT_S, "write_timeout": _WRITE_TIMEOUT_S}
    return {
        "conn_string": _conninfo(settings),
        "init_extension": False,
        # Plain reads woken by NOTIFY: an idle queue costs one query a second and a message waits milliseconds.
        "use_notify": True,
        "wait_time_seconds": 0,
        "polling_interval": 1.0,
        "visibility_timeout": settings.visibility_timeout_s,
        "pool_size": 4,
        "pool_timeout": _CONNECT_TIMEOUT_S,
    }


def broker_url(settings: Settings) -> str:
    """Return the URL that Kombu and Celery take; for pgmq the address is in the options."""
    return "pgmq://localhost" if is_pgmq(settings) else settings.require_broker_url()


def broker_transport(settings: Settings) -> str | None:
    """Return the transport class that Kombu and Celery take, where it is not the one that the URL implies."""
    return "shared.bus.pgmq_transport:Transport" if is_pgmq(settings) else None


def connect(settings: Settings, *, heartbeat_s: float = 0) -> Connection:
    """Open a connection of its own; the caller closes it. Connections are not shared between threads.

    Args:
        settings: Where the broker is.
        heartbeat_s: If not 0, the caller promises to call `heartbeat_check` every second or so.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    connection = Connection(
        broker_url(settings),
        heartbeat=heartbeat_s,
        transport=broker_transport(settings),
        transport_options=broker_options(settings),
    )
    try:
        if is_pgmq(settings):
            _install_pgmq(_conninfo(settings))
        connection.connect()
    except broker_errors(connection) as error:
        connection.release()
        raise BrokerUnavailable from error
    return connection


def close(connection: Connection, *, first: Callable[[], None] | None = None) -> None:
    """Close a connection: politely, or without a word if the broker keeps silent.

    A broker under a memory or disk alarm reads nothing from those who publish, and so never answers their good-bye.

    Args:
        connection: The connection; its thread has nothing else to do with it.
        first: What is to be said before; whatever of it a broken connection refuses is left out.
    """

    def say_good_bye() -> None:
        with suppress(*broker_errors(connection)):
            if first is not None:
                first()
        with suppress(*broker_errors(connection)):
            connection.release()

    thread = threading.Thread(target=say_good_bye, name="good-bye", daemon=True)
    thread.start()
    thread.join(GOOD_BYE_S)
    if thread.is_alive() and (line := getattr(connection._connection, "sock", None)) is not None:  # noqa: SLF001
        with suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)


def broker_errors(connection: Connection) -> tuple[type[Exception], ...]:
    """List what a connection raises when the broker goes away, refuses, or does not answer."""
    return (*connection.connection_errors, *connection.channel_errors, KombuOperationalError, psycopg.Error, OSError)


def is_pgmq(settings: Settings) -> bool:
    """Tell whether the broker is pgmq rather than RabbitMQ.

    Raises:
        BadBrokerUrl: It is neither.
    """
    scheme = urlsplit(settings.require_broker_url()).scheme
    if scheme not in ("amqp", "amqps", "pgmq"):
        raise BadBrokerUrl
    return scheme == "pgmq"


def _conninfo(settings: Settings) -> str:
    url = settings.require_broker_url()
    try:
        conninfo = make_conninfo("postgresql" + url.removeprefix("pgmq"), connect_timeout=_CONNECT_TIMEOUT_S)
    except psycopg.ProgrammingError as error:
        raise BadBrokerUrl from error
    if "dbname" not in conninfo_to_dict(conninfo):  # the driver would take one that is called like the user
        raise BadBrokerUrl
    return conninfo


def _install_pgmq(conninfo: str) -> None:
    """Create pgmq's schema if the database has none; several processes may try at once."""
    from pgmq import install_pgmq_from_sql  # noqa: PLC0415 - only where pgmq is the broker

    with psycopg.connect(conninfo, autocommit=True) as connection:
        if _has_pgmq(connection):
            return
        # A lock of the session: the installation commits more than once.
        connection.execute("SELECT pg_advisory_lock(%s)", [_INSTALL_LOCK])
        if not _has_pgmq(connection):
            install_pgmq_from_sql(dsn=conninfo)


def _has_pgmq(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    found = connection.execute("SELECT to_regclass('pgmq.meta')").fetchone()
    return found is not None and found[0] is not None
