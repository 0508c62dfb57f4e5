"""The connection to Postgres: engine, transactions, and typed errors when it is unavailable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.errors import DeadlockDetected, LockNotAvailable, QueryCanceled, SerializationFailure
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.orm import Session

from shared.errors import PermanentError, RefusedError, RetryableError
from shared.postgres_refusals import is_refusal

LISTEN_CHANNEL = "trim_problems"
"""Channel that wakes orchestrators when problems were submitted or cancelled. A hint only: they also poll."""

WakeUp = Literal["admit", "cancel"]

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 30


class DatabaseUnavailable(RetryableError):
    """The database does not answer; check TRIM_DATABASE_URL and that the server runs."""

    code = "database_unavailable"


class DatabaseRefused(DatabaseUnavailable, RefusedError):
    """The database refuses the user, the password or the database of TRIM_DATABASE_URL; correct it and restart."""

    code = "database_refused"


class DatabaseBusy(RetryableError):
    """The database did not answer in time, or two transactions conflicted; try again."""

    code = "database_busy"


class BadDatabaseUrl(PermanentError):
    """TRIM_DATABASE_URL names no Postgres database; write postgresql://user:password@host:port/database."""

    code = "bad_database_url"


class Database:
    """A process's pool of connections to Postgres."""

    def __init__(
        self, url: str, *, pool_size: int = 5, statement_timeout_s: int = STATEMENT_TIMEOUT_S, is_retried: bool = False
    ) -> None:
        """Prepare the pool; nothing connects yet.

        Args:
            url: URL of the database.
            pool_size: Number of connections that stay open; as many more are opened while these are busy.
            statement_timeout_s: Seconds after which the server cancels a statement; 0 is never.
            is_retried: Whether the caller retries when the database is unavailable. Otherwise the pool tests a
                connection before each transaction, at the cost of a round trip, and replaces one that broke while idle.

        Raises:
            BadDatabaseUrl: The URL is not one of Postgres.
        """
        self.engine = _make_engine(
            url, pool_size=pool_size, statement_timeout_s=statement_timeout_s, pre_ping=not is_retried
        )

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Open a transaction: committed at the end of the block, rolled back if it raises.

        Raises:
            DatabaseUnavailable: The server does not answer, or the connection broke.
            DatabaseBusy: A statement timed out, or the transaction lost a conflict.
        """
        with _translated(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Open a connection on which the caller begins and ends transactions.

        Raises:
            DatabaseUnavailable: The server does not answer, or the connection broke.
            DatabaseBusy: A statement or its wait for a lock timed out, or the transaction lost against another one.
        """
        with _translated(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a transaction as an ORM session: committed at the end of the block, rolled back if it raises.

        Raises:
            DatabaseUnavailable: The server does not answer, or the connection broke.
            DatabaseBusy: A statement timed out, or the transaction lost a conflict.
        """
        with _translated(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def listen(self) -> psycopg.Connection[tuple[object, ...]]:
        """Open a separate connection that listens for wake-ups; the caller closes it.

        Raises:
            DatabaseUnavailable: The server does not answer, or refuses this process.
        """
        # Not the URL as text: SQLAlchemy leaves spaces of a password in it, which the driver refuses.
        _, parameters = self.engine.dialect.create_connect_args(self.engine.url)
        try:
            connection = psycopg.connect(**{**parameters, **_LINE}, autocommit=True)
            connection.execute(f"LISTEN {LISTEN_CHANNEL}")
        except psycopg.OperationalError as error:
            raise _unavailable(error) from error
        return connection

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


_LINE: Final[dict[str, Any]] = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    # A server that lost its power sends nothing; the system's default time-outs for that are hours.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    # A server that was set up in the locale C stores bytes, and would not name their encoding.
    "client_encoding": "utf8",
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


def _make_engine(url: str, *, pool_size: int, statement_timeout_s: int, pre_ping: bool) -> Engine:
    engine = create_engine(
        _parse(url).set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=pre_ping,
        hide_parameters=True,  # errors are logged, and parameters hold questions and steps
        connect_args=_LINE,
    )

    @event.listens_for(engine, "connect")
    def _limit(connection: psycopg.Connection[tuple[object, ...]], _record: object) -> None:
        connection.execute(f"SET statement_timeout = '{statement_timeout_s}s'")
        connection.execute("SET timezone = 'UTC'")
        # Compiling costs more than any query here runs.
        connection.execute("SET jit = off")
        connection.commit()

    return engine


def _unavailable(error: BaseException | None) -> DatabaseUnavailable:
    return DatabaseRefused() if is_refusal(str(error)) else DatabaseUnavailable()


_BUSY = (QueryCanceled, DeadlockDetected, SerializationFailure, LockNotAvailable)


@contextmanager
def _translated() -> Iterator[None]:
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
