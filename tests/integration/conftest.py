"""Servers for integration tests: each test gets a separate database and separate queues, removed afterwards.

With CI set, a server that does not answer is a failure; elsewhere the tests that need it are skipped with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import psycopg
import pytest

from shared.bus.connection import connect
from shared.errors import RetryableError
from shared.settings import Settings
from stack.scratch import scratch_database, scratch_prefix

SERVER_URL = os.environ.get("TRIM_TEST_DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
RABBITMQ_URL = os.environ.get("TRIM_TEST_BROKER_URL", "amqp://guest:guest@127.0.0.1:5672//")


def missing(what: str, variable: str, error: Exception) -> None:
    """Fail in CI, skip elsewhere."""
    reason = f"{what} does not answer ({type(error).__name__}); set {variable} to a server"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """URL of a Postgres server that answers."""
    try:
        psycopg.connect(SERVER_URL, connect_timeout=5).close()
    except psycopg.OperationalError as error:
        missing("Postgres", "TRIM_TEST_DATABASE_URL", error)
    return SERVER_URL


@pytest.fixture(scope="session")
def rabbitmq_server() -> str:
    """URL of a RabbitMQ server that answers."""
    try:
        connect(Settings(broker_url=RABBITMQ_URL, queue_prefix=scratch_prefix())).release()
    except RetryableError as error:
        missing("RabbitMQ", "TRIM_TEST_BROKER_URL", error)
    return RABBITMQ_URL


@pytest.fixture
def database_url(postgres_server: str) -> Iterator[str]:
    """URL of a fresh, migrated database."""
    with scratch_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="module", params=["rabbitmq", "pgmq"])
def module_servers(request: pytest.FixtureRequest, postgres_server: str) -> Iterator[dict[str, str]]:
    """URLs of a database and of either broker, for a deployment that the tests of a module share."""
    with scratch_database(postgres_server) as database_url:
        yield {"database_url": database_url, "broker_url": broker_on(request, database_url)}


def broker_on(request: pytest.FixtureRequest, database_url: str) -> str:
    """Return the URL of the broker that the parameter of a fixture names."""
    if request.param == "rabbitmq":
        url: str = request.getfixturevalue("rabbitmq_server")
        return url
    return database_url.replace("postgresql", "pgmq", 1)


@pytest.fixture(params=["rabbitmq", "pgmq"])
def broker_url(request: pytest.FixtureRequest, database_url: str) -> str:
    """URL of either broker."""
    return broker_on(request, database_url)
