"""The connection to Postgres: engine, transactions, and typed errors when it is unavailable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Literal

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.errors import DeadlockDetected, LockNotAvailable, QueryCanceled, SerializationFailure
from sqlalchemy import URL, Connection, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.orm import Session

from shared.errors import PermanentError, RefusedError, RetryableError
from shared.postgres_refusals import is_refusal

LISTEN_CHANNEL = "trim_problems"
"""Channel that wakes orchestrators when problems were submitted or cancelled. A hint only: they also poll."""

WakeUp = Literal["admit", "cancel"]

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 30

IDLE_TIMEOUT_S = 15
"""Seconds that a transaction may wait for its process before the server ends it: the process hangs, and its locks would
stop others for as long. It computes for milliseconds between two statements."""


class DatabaseUnavailable(RetryableError):
    """The database does not answer; check TRIM_DATABASE_URL and that the server runs."""

    code = "database_unavailable"


class DatabaseRefused(DatabaseUnavailable, RefusedError):
    """The database refuses the user, the password or the database of TRIM_DATABASE_URL; correct it and restart."""

    code = "database_refused"


class DatabaseBusy(RetryableError):
    """The database did not answer in time, or another session holds a lock; try again."""

    code = "database_busy"


class BadDatabaseUrl(PermanentError):
    """TRIM_DATABASE_URL names no Postgres database; write postgresql://user:password@host:port/database."""

    code = "bad_database_url"


class Database:
    """A process's pool of connections to Postgres."""

    def __init__(
        self,
        url: str,
        *,
        name: str | None = None,
        lock_timeout_s: float = 0,
        pool_size: int = 5,
        statement_timeout_s: int = STATEMENT_TIMEOUT_S,
        is_retried: bool = False,
    ) -> None:
        """Prepare the pool; nothing connects yet.

        Args:
            url: URL of the database.
            name: Name of the process among the sessions of the server, unless the URL has an `application_name`. `None`
                for a command, whose transactions may pause for longer than `IDLE_TIMEOUT_S`.
            lock_timeout_s: Seconds after which the server cancels a statement that waits for a lock; 0 is never.
            pool_size: Number of connections that stay open; as many more are opened while these are busy.
            statement_timeout_s: Seconds after which the server cancels a statement; 0 is never.
            is_retried: Whether the caller retries when the database is unavailable. Otherwise the pool tests a
                connection before each transaction, at the cost of a round trip, and replaces one that broke while idle.

        Raises:
            BadDatabaseUrl: The URL is not one of Postgres.
        """
        self._line = {**_LINE, "fallback_application_name": name or "trim"}
        self.engine = create_engine(
            _parse(url).set(drivername="postgresql+psycopg"),
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_pre_ping=not is_retried,
            hide_parameters=True,  # errors are logged, and parameters hold questions and steps
            connect_args=self._line,
        )
        limits = {
            "statement_timeout": f"{statement_timeout_s}s",
            "lock_timeout": f"{lock_timeout_s}s",
            "idle_in_transaction_session_timeout": f"{0 if name is None else IDLE_TIMEOUT_S}s",
        }
        event.listen(self.engine, "connect", partial(_set_up, settings={**_SESSION, **limits}))

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Open a transaction: committed at the end of the block, rolled back if it raises.

        Raises:
            DatabaseUnavailable: The server does not answer, or the connection broke.
            DatabaseBusy: A statement timed out, or the transaction lost a conflict.
        """
        with translated(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Open a connection on which the caller begins and ends transactions.

        Raises:
            DatabaseUnavailable: The server does not answer, or the connection broke.
            DatabaseBusy: A statement or its wait for a lock timed out, or the transaction lost against another one.
        """
        with translated(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a transaction as an ORM session: committed at the end of the block, rolled back if it raises.

        Raises:
            DatabaseUnavailable: The server does not answer, or the connection broke.
            DatabaseBusy: A statement timed out, or the transaction lost a conflict.
        """
        with translated(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """Open a transaction as an ORM session that only reads: all its statements see the same moment.

        Raises:
            DatabaseUnavailable: The server does not answer, or the connection broke.
            DatabaseBusy: A statement timed out.
        """
        engine = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with translated(), Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    def listen(self) -> psycopg.Connection[tuple[object, ...]]:
        """Open a separate connection that listens for wake-ups; the caller closes it.

        Raises:
            DatabaseUnavailable: The server does not answer, or refuses this process.
        """
        with translated():
            connection = psycopg.connect(**self._arguments(), autocommit=True)
            connection.execute(f"LISTEN {LISTEN_CHANNEL}")
        return connection

    async def connect_apart(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        """Open a separate connection for an event loop, on which each statement commits; the caller closes it.

        Raises:
            DatabaseUnavailable: The server does not answer, or refuses this process.
        """
        with translated():
            return await psycopg.AsyncConnection.connect(**self._arguments(), autocommit=True)

    def _arguments(self) -> dict[str, Any]:
        # Not the URL as text: SQLAlchemy leaves spaces of a password in it, which the driver refuses.
        _, parameters = self.engine.dialect.create_connect_args(self.engine.url)
        return {**parameters, **self._line}

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


_KEEPALIVES: Final = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
_USER_TIMEOUT_MS: Final = 30_000

_LINE: Final[dict[str, Any]] = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    # A server that lost its power sends nothing; the system's default time-outs for that are hours.
    **_KEEPALIVES,
    "tcp_user_timeout": _USER_TIMEOUT_MS,
    # A server that was set up in the locale C stores bytes, and would not name their encoding.
    "client_encoding": "utf8",
    # A standby, and a primary that still recovers, accept neither writes nor LISTEN.
    "target_session_attrs": "read-write",
}

_SESSION: Final = {
    "timezone": "UTC",
    # Compiling costs more than any query here runs.
    "jit": "off",
    # The same for the server's end of the line: a process whose host lost its power would keep its locks for hours.
    **{f"tcp_{name}": str(value) for name, value in _KEEPALIVES.items()},
    "tcp_user_timeout": str(_USER_TIMEOUT_MS),
}


def wake_orchestrators(transaction: Session | Connection, *, to: WakeUp) -> None:
    """Notify orchestrators, at commit, that problems are to be admitted or cancelled."""
    transaction.execute(text(f"NOTIFY {LISTEN_CHANNEL}, '{to}'"))


def _parse(url: str) -> URL:
    """Parse a URL. Errors do not quote it: it holds a password.

    Raises:
        BadDatabaseUrl: It is not one of Postgres, or the driver does not know one of its options.
    """
    try:
        parsed = make_url(url)
        # Without a database, the driver would default to the user's name.
        is_usable = (
            parsed.get_backend_name() == "postgresql" and parsed.database and (parsed.port or 1) in range(1, 65536)
        )
        driver = parsed.set(drivername="postgresql+psycopg")
        _, parameters = driver.get_dialect()().create_connect_args(driver)
        make_conninfo(**parameters)
    except (ArgumentError, ValueError, psycopg.ProgrammingError):
        raise BadDatabaseUrl from None
    if not is_usable:
        raise BadDatabaseUrl
    return parsed


def _set_up(connection: psycopg.Connection[Any], _record: object, *, settings: Mapping[str, str]) -> None:
    connection.execute("; ".join(f"SET {name} = '{value}'" for name, value in settings.items()).encode())
    connection.commit()


def _unavailable(error: BaseException | None) -> DatabaseUnavailable:
    return DatabaseRefused() if is_refusal(str(error)) else DatabaseUnavailable()


_BUSY = (QueryCanceled, DeadlockDetected, SerializationFailure, LockNotAvailable)


@contextmanager
def translated() -> Iterator[None]:
    """Turn the errors of SQLAlchemy and of the driver within the block into typed ones.

    Raises:
        DatabaseUnavailable: The server does not answer, or the connection broke.
        DatabaseBusy: A statement timed out, or the transaction lost a conflict.
    """
    try:
        yield
    except (OperationalError, psycopg.OperationalError) as error:  # the latter where statements run on the driver
        cause = error.orig if isinstance(error, OperationalError) else error
        if isinstance(cause, _BUSY):
            raise DatabaseBusy from cause
        raise _unavailable(cause) from cause
    except DBAPIError as error:
        if error.connection_invalidated:
            raise DatabaseUnavailable from error.orig
        raise
