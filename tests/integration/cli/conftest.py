"""The `trim` command against an API process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner

from cli.app import app
from stack.scratch import scratch_database

Trim = Callable[..., str]


@pytest.fixture(scope="module")
def address(postgres_server: str) -> Iterator[str]:
    """Address of an API on a fresh database."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRIM_")}
    with scratch_database(postgres_server) as url:
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
def trim(address: str) -> Trim:
    """Run a command and return its standard output; it must succeed."""

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, arguments, env={"TRIM_SERVER": address}, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    return run
