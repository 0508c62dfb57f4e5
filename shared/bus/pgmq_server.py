"""The Postgres server of pgmq: where it is, and its schema. Imported only where pgmq is the broker."""

from __future__ import annotations

import psycopg
from pgmq import install_pgmq_from_sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

_INSTALL_LOCK = 0x7472_6971


def conninfo_of(url: str, *, connect_timeout_s: int) -> str | None:
    """Turn a broker URL into psycopg's connection string; `None` if it names no database."""
    try:
        conninfo = make_conninfo("postgresql" + url.removeprefix("pgmq"), connect_timeout=connect_timeout_s)
    except psycopg.ProgrammingError:
        return None
    # Without a name, the driver would default to the user's.
    return conninfo if "dbname" in conninfo_to_dict(conninfo) else None


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


def _has_schema(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    found = connection.execute("SELECT to_regclass('pgmq.meta')").fetchone()
    return found is not None and found[0] is not None
