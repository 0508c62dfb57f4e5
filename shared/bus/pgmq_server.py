"""The Postgres server of pgmq: where it is, and its schema. Imported only where pgmq is the broker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import psycopg
from kombu.transport.pgmq import CHARS_REPLACE_TABLE
from pgmq import install_pgmq_from_sql
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from shared.bus.connection import refused_or_unavailable

_INSTALL_LOCK = 0x7472_6971
_PRESENT: Final = "SELECT tablename FROM pg_tables WHERE schemaname = 'pgmq' AND tablename = ANY(%s)"


def conninfo_of(url: str, *, connect_timeout_s: int) -> str | None:
    """Turn a broker URL into psycopg's connection string; `None` if it names no database."""
    try:
        conninfo = make_conninfo("postgresql" + url.removeprefix("pgmq"), connect_timeout=connect_timeout_s)
    except psycopg.ProgrammingError:
        return None
    # Without a name, the driver would default to the user's.
    return conninfo if "dbname" in conninfo_to_dict(conninfo) else None


def table_of(queue: str) -> str:
    """Return the table of pgmq's schema that holds a queue, which Kombu and pgmq derive from its name."""
    return f"q_{queue.translate(CHARS_REPLACE_TABLE)}".lower()


def install_schema(conninfo: str) -> None:
    """Create pgmq's schema if the database has none; safe to run from several processes at once.

    Raises:
        psycopg.Error: The server does not answer, or refuses.
    """
    with psycopg.connect(conninfo, autocommit=True) as connection:
        if _has_schema(connection):
            return
        # A session lock, because the installation commits more than once.
        connection.execute("SELECT pg_advisory_lock(%s)", [_INSTALL_LOCK])
        if not _has_schema(connection):
            install_pgmq_from_sql(dsn=conninfo)


def read_queues(conninfo: str, queues: Sequence[str]) -> tuple[str, Mapping[str, tuple[int, int]]]:
    """Count the messages of queues.

    Returns:
        The version of the server, and the numbers of visible and of taken messages of each queue that exists.

    Raises:
        BrokerUnavailable: The server does not answer, refuses, or is too slow.
    """
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("SET statement_timeout = '4s'")
            tables = {queue: table_of(queue) for queue in queues}
            present = {name for (name,) in connection.execute(_PRESENT, [list(tables.values())]).fetchall()}
            counts = {queue: _count(connection, name) for queue, name in tables.items() if name in present}
            version = connection.info.parameter_status("server_version") or ""
    except psycopg.Error as error:
        raise refused_or_unavailable(error) from error
    return version.partition(" ")[0], counts


def _count(connection: psycopg.Connection[Any], table: str) -> tuple[int, int]:
    counted = sql.SQL("SELECT count(*) FILTER (WHERE vt <= now()), count(*) FILTER (WHERE vt > now()) FROM {}")
    row = connection.execute(counted.format(sql.Identifier("pgmq", table))).fetchone()
    return (row[0], row[1]) if row else (0, 0)


def _has_schema(connection: psycopg.Connection[Any]) -> bool:
    found = connection.execute("SELECT to_regclass('pgmq.meta')").fetchone()
    return found is not None and found[0] is not None
