"""The servers of the tests and of chaos: those of two variables, or the standard ports on this machine."""

from __future__ import annotations

import os

import psycopg

from shared.bus.connection import connect
from shared.errors import RetryableError
from shared.settings import Settings
from stack.scratch import scratch_prefix

DATABASE_URL = "TRIM_TEST_DATABASE_URL"
BROKER_URL = "TRIM_TEST_BROKER_URL"


class ServerMissing(RetryableError):
    """A server does not answer; set its variable to one that does."""

    code = "server_missing"


def find_postgres() -> str:
    """Return the URL of a Postgres server on which databases can be created.

    Raises:
        ServerMissing: It does not answer.
    """
    url = os.environ.get(DATABASE_URL, "postgresql://postgres@127.0.0.1:5432/postgres")
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError as error:
        raise _missing("Postgres", DATABASE_URL, error) from None
    return url


def find_rabbitmq() -> str:
    """Return the URL of a RabbitMQ server.

    Raises:
        ServerMissing: It does not answer.
    """
    url = os.environ.get(BROKER_URL, "amqp://guest:guest@127.0.0.1:5672//")
    try:
        connect(Settings.model_validate({"broker_url": url, "queue_prefix": scratch_prefix()})).release()
    except RetryableError as error:
        raise _missing("RabbitMQ", BROKER_URL, error) from None
    return url


def _missing(what: str, variable: str, error: Exception) -> ServerMissing:
    return ServerMissing(f"{what} does not answer ({type(error).__name__}); set {variable} to a server")
