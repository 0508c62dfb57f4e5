"""The API, with a database and without one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from services.api.app import create_app
from shared.store.database import Database
from stack.scratch import scratch_database
from tests.integration.api.calls import SETTINGS
from tests.integration.api.described import check


@pytest.fixture(scope="module")
def database(postgres_server: str) -> Iterator[Database]:
    """One database for all tests of a file: none looks at more than it made itself."""
    with scratch_database(postgres_server) as url, closing(Database(url)) as made:
        yield made


@pytest.fixture(scope="module")
def app(database: Database) -> FastAPI:
    return create_app(SETTINGS, database)


@pytest.fixture
def api(app: FastAPI) -> TestClient:
    return checked_client(app)


def checked_client(app: FastAPI) -> TestClient:
    """Return a client that checks every response against the description."""
    made = TestClient(app, raise_server_exceptions=False)
    made.event_hooks["response"].append(check)
    return made


@pytest.fixture
def dead_api() -> Iterator[TestClient]:
    """The API with an unreachable database."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql://postgres@127.0.0.1:{taken.getsockname()[1]}/trim"
        with closing(Database(url)) as made:
            yield checked_client(create_app(SETTINGS, made))
