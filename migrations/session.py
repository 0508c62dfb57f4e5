"""The database session that runs migrations: one at a time, with short timeouts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from sqlalchemy import Connection, event, text

from shared.errors import PermanentError, RetryableError
from shared.store.database import Database

LOCK_TIMEOUT_S = 4
"""Seconds that a migration waits for a lock. Every later statement on the table queues behind that wait."""

STATEMENT_TIMEOUT_S = 20
"""Seconds that one statement of a migration may run. Services give up on a statement that it blocks after 30."""

TURN_TIMEOUT_S = 300.0
"""Seconds to wait while another process migrates the same database."""

_TURN_POLL_S = 0.2
_TURN_LOCK = 0x7472_6D67


class MigrationInProgress(RetryableError):
    """Another process is still migrating this database; run the command again when it has finished."""

    code = "migration_in_progress"


class NotInUnicode(PermanentError):
    """The database cannot store every text; create it with ENCODING 'UTF8'."""

    code = "not_in_unicode"


@contextmanager
def migrating(database_url: str) -> Iterator[Connection]:
    """Open a connection for migrations, and keep other processes from migrating until it closes.

    The timeouts are set again in every transaction, so a migration that changes them does not affect the next one.

    Raises:
        MigrationInProgress: Another process held the lock for `TURN_TIMEOUT_S`.
        NotInUnicode: The database has another encoding than UTF8.
        DatabaseUnavailable, DatabaseBusy: See `Database.connect`.
    """
    with closing(Database(database_url)) as database, database.connect() as connection:
        _check_encoding(connection)
        event.listen(connection, "begin", _set_timeouts)
        _wait_for_turn(connection)
        # The server releases the lock with the session, however the migrations end.
        yield connection


def _check_encoding(connection: Connection) -> None:
    encoding = connection.scalar(text("SELECT current_setting('server_encoding')"))
    connection.rollback()
    if encoding != "UTF8":
        raise NotInUnicode(f"The database's encoding is {encoding}; create it with ENCODING 'UTF8' TEMPLATE template0.")


def _set_timeouts(connection: Connection) -> None:
    connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'")
    connection.exec_driver_sql(f"SET statement_timeout = '{STATEMENT_TIMEOUT_S}s'")


def _wait_for_turn(connection: Connection) -> None:
    """Take the advisory lock.

    A session that blocks in `pg_advisory_lock` holds a snapshot. CREATE INDEX CONCURRENTLY waits for all older
    snapshots, so it would deadlock with the sessions that wait for its turn to end. Therefore we poll.
    """
    deadline = time.monotonic() + TURN_TIMEOUT_S
    while not connection.scalar(text(f"SELECT pg_try_advisory_lock({_TURN_LOCK})")):
        connection.rollback()
        if time.monotonic() >= deadline:
            raise MigrationInProgress
        time.sleep(_TURN_POLL_S)
    connection.commit()
