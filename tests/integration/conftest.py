"""Servers for integration tests: each test gets a separate database and separate queues, removed afterwards.

With CI set, a server that does not answer is a failure; elsewhere the tests that need it are skipped with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from chaos.servers import ServerMissing, find_postgres, find_rabbitmq
from stack.scratch import scratch_database


def missing(reason: str) -> NoReturn:
    """Fail in CI, skip elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def find(server: Callable[[], str]) -> str:
    """Return the URL of a server that answers."""
    try:
        return server()
    except ServerMissing as reason:
        missing(str(reason))


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """URL of a Postgres server that answers."""
    return find(find_postgres)


@pytest.fixture(scope="session")
def rabbitmq_server() -> str:
    """URL of a RabbitMQ server that answers."""
    return find(find_rabbitmq)


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
