"""The `trim` command against an API process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from cli.app import app
from shared.domain.artefacts import ModelIds
from shared.store.admission import record_processes
from shared.store.database import Database
from shared.store.port import SeenProcess
from stack.scratch import scratch_database

Trim = Callable[..., str]
Beat = Callable[[ModelIds], None]


@pytest.fixture(scope="module")
def database(postgres_server: str) -> Iterator[Database]:
    """A fresh database."""
    with scratch_database(postgres_server) as url, closing(Database(url)) as database:
        yield database


@pytest.fixture(scope="module")
def address(database: Database) -> Iterator[str]:
    """Address of an API on the database."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRIM_")}
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    settings = {"TRIM_DATABASE_URL": url, "TRIM_API_PORT": "0", "TRIM_LOG_FORMAT": "json"}
    command = [sys.executable, "-m", "services.api"]
    with subprocess.Popen(command, env=inherited | settings, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            yield next(found["address"] for line in process.stderr if "address" in (found := json.loads(line)))
        finally:
            process.terminate()
            process.communicate()


@pytest.fixture
def beat(database: Database) -> Beat:
    """Have workers with some models send a heartbeat each."""

    def record(models: ModelIds) -> None:
        seen = [
            SeenProcess(role, role=role, model=model, seen_at=datetime.now(UTC))
            for role, model in asdict(models).items()
        ]
        with database.begin() as connection:
            record_processes(connection, seen)

    return record


@pytest.fixture
def trim(address: str) -> Trim:
    """Run a command and return its standard output; it must succeed."""

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, arguments, env={"TRIM_SERVER": address}, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    return run
