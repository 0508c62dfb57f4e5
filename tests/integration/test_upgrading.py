"""An api process of this version beside the migrations of a later one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import httpx2
import psycopg
import pytest

import migrations
from shared.store.compatibility import REVISION

pytestmark = pytest.mark.servers

PATIENCE_S = 240.0
ROOT = Path(__file__).resolve().parents[2]
SAMPLES = Path(__file__).parent / "sample_migrations"


def environment(**settings: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TRIM_")} | settings


@contextmanager
def running_api(folder: Path, database_url: str) -> Iterator[httpx2.Client]:
    """Run an api process at a free port."""
    settings = environment(TRIM_DATABASE_URL=database_url, TRIM_API_PORT="0", TRIM_LOG_FORMAT="json")
    log = folder / "api.log"
    with log.open("w") as written:
        process = subprocess.Popen([sys.executable, "-m", "services.api"], env=settings, stderr=written)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (found := re.search(r'"address": ?"([^"]+)"', log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        with httpx2.Client(base_url=found[1], timeout=PATIENCE_S) as http:
            yield http
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        assert "request_crashed" not in log.read_text()


class Traffic:
    """Submits, lists and reads readiness, over and over, from a thread."""

    def __init__(self, http: httpx2.Client) -> None:
        self.failures: list[str] = []
        self.rounds = 0
        self._http = http
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(PATIENCE_S)

    def wait_for_rounds(self, count: int) -> None:
        """Wait for complete rounds: psycopg prepares a statement at its sixth execution on a connection."""
        wanted = self.rounds + count
        deadline = time.monotonic() + PATIENCE_S
        while self.rounds < wanted:
            assert time.monotonic() < deadline, self.failures
            time.sleep(0.01)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                answers = [
                    self._http.post("/v1/problems", json={"question": "What is 6 times 7?"}),
                    self._http.get("/v1/problems"),
                    self._http.get("/health/ready"),
                ]
            except httpx2.HTTPError as error:
                self.failures.append(repr(error))
            else:
                self.failures += [each.text for each in answers if not each.is_success]
            self.rounds += 1


def schema_part(http: httpx2.Client) -> tuple[int, str]:
    """Read the status of readiness and its detail on the schema."""
    response = http.get("/health/ready")
    [part] = [each for each in response.json()["parts"] if each["name"] == "schema"]
    return response.status_code, part["detail"]


def test_the_api_serves_throughout_an_expand_migration_and_its_downgrade(tmp_path: Path, database_url: str) -> None:
    with running_api(tmp_path, database_url) as http, Traffic(http) as traffic:
        traffic.wait_for_rounds(10)
        assert migrations.upgrade(database_url, "9002", SAMPLES).startswith("9002")
        traffic.wait_for_rounds(10)
        assert schema_part(http) == (200, f"The schema is 9002; this version needs {REVISION} or newer.")
        migrations.downgrade(database_url, REVISION, SAMPLES)
        traffic.wait_for_rounds(10)
        assert schema_part(http) == (200, f"The schema is {REVISION}; this version needs {REVISION} or newer.")
    assert traffic.failures == []


def test_a_contract_migration_that_excludes_the_api_makes_it_unavailable_until_the_downgrade(
    tmp_path: Path, database_url: str
) -> None:
    with running_api(tmp_path, database_url) as http:
        migrations.upgrade(database_url, "9003", SAMPLES)
        response = http.get("/health/ready")
        assert response.json()["status"] == "unavailable"
        assert "schema" in response.json()["down"]
        status, detail = schema_part(http)
        assert status == 503
        assert (
            detail == f"This version (schema {REVISION}) is older than the schema allows (9001); upgrade this process."
        )
        migrations.downgrade(database_url, "9002", SAMPLES)
        assert schema_part(http)[0] == 200
        assert http.post("/v1/problems", json={"question": "What is 6 times 7?"}).status_code == 201


def test_an_orchestrator_starts_after_an_expand_migration_and_refuses_after_a_contract(database_url: str) -> None:
    broker_url = database_url.replace("postgresql", "pgmq", 1)
    settings = environment(TRIM_DATABASE_URL=database_url, TRIM_BROKER_URL=broker_url, TRIM_LOG_FORMAT="json")
    command = [sys.executable, "-m", "services.orchestrator"]
    migrations.upgrade(database_url, "9002", SAMPLES)
    with subprocess.Popen(command, env=settings, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            events = (json.loads(line)["event"] for line in process.stderr)
            assert "orchestrator_started" in events
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE_S)
    migrations.upgrade(database_url, "9003", SAMPLES)
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 2
    assert "upgrade this process" in done.stderr.splitlines()[-1]


REGISTER = """
INSERT INTO policy_versions (policy, version, digest, card, arrays, small_model, large_model, prm_model)
VALUES ('pomdp', 1, 'd', '{}', '', 's', 'l', 'p')
"""


def test_the_commands_and_queries_of_the_page_on_upgrading_work(database_url: str) -> None:
    page = (ROOT / "docs" / "operations" / "upgrading.md").read_text()
    commands = re.findall(r"^    \.venv/bin/python (-m migrations .+?)(?:  #.*)?$", page, re.MULTILINE)
    assert {"upgrade", "check", "downgrade", "new"} <= {each.split()[2] for each in commands}
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(REGISTER)
    for command in commands:
        if " new " in command:
            continue  # tests/integration/test_migrations.py runs it on a separate folder
        done = subprocess.run(
            [sys.executable, *command.split()],
            env=environment(TRIM_DATABASE_URL=database_url),
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    queries = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    assert queries
    with psycopg.connect(database_url, autocommit=True) as connection:
        for query in queries:
            connection.execute(query.encode())
        assert connection.execute("SELECT count(*) FROM policy_versions").fetchone() == (1,), "it is not dropped"
