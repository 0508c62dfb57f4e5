"""The compose project starts, scales, survives what breaks in production, and shows wrong settings."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.domain.status import Status
from stack.client import Api
from stack.sample import GREEDY, POLICIES, SAMPLE
from tests.containers.project import Project, until

pytestmark = [
    pytest.mark.skipif("TRIM_TEST_COMPOSE" not in os.environ, reason="TRIM_TEST_COMPOSE names no Docker Compose"),
    pytest.mark.timeout(2400),
]

ROLES = {"api": 1, "orchestrator": 1, "small": 1, "prm": 1, "large": 1}


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    """Build the images and start the project; remove it with its volumes in the end."""
    project = Project(os.environ["TRIM_TEST_COMPOSE"])
    try:
        if not os.environ.get("TRIM_TEST_IMAGES_ARE_BUILT"):
            project.run("build")
        project.run("up", "--detach", "--no-build")
        until(lambda: project.is_healthy(ROLES))
        yield project
    finally:
        project.run("down", "--volumes", "--timeout", "40")


def _submit(api: Api, times: int = 1) -> list[str]:
    """Submit the bundled sample with every policy, a number of times, and return the batches."""
    problems = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
    return [
        api.submit(problems, {"sampling": GREEDY, "policy": policy})
        for _ in range(times)
        for policy in POLICIES.values()
    ]


def _ended(api: Api, batch_id: str) -> dict[str, Any]:
    """Wait until all problems of a batch have ended, and return the batch."""

    def look() -> dict[str, Any] | None:
        batch = api.batch(batch_id)
        done = sum(batch["statuses"].get(status, 0) for status in Status if status.is_final)
        return batch if done == batch["size"] else None

    return until(look)


def test_the_project_solves_the_bundled_sample(project: Project) -> None:
    with project.api() as api:
        batches = [_ended(api, batch) for batch in _submit(api)]
    assert [batch["statuses"] for batch in batches] == [{"succeeded": 60}] * len(POLICIES)
    assert batches[0]["verdicts"] == {"correct": 60}
    assert "Killed" not in project.run("logs", *ROLES), "a role needs more memory than its limit"


def test_scaling_crashes_and_restarts_of_servers_lose_nothing_and_double_nothing(project: Project) -> None:
    with project.api() as api:
        batches = _submit(api, times=2)
        project.run("up", "--detach", "--no-build", "--no-recreate", "--scale", "small=3", "--scale", "prm=2")
        until(lambda: project.is_healthy({**ROLES, "small": 3, "prm": 2}))
        project.crash("small")
        project.run("restart", "rabbitmq")
        project.run("restart", "postgres")
        until(lambda: project.is_healthy({**ROLES, "small": 3, "prm": 2}))
        batches += _submit(api)
        project.run("up", "--detach", "--no-build", "--no-recreate", "--scale", "small=1", "--scale", "prm=1")
        ended = [_ended(api, batch) for batch in batches]
    assert [batch["statuses"] for batch in ended] == [{"succeeded": 60}] * len(batches)
    project.run("exec", "-T", "orchestrator", "python", "-m", "migrations", "verify")


def test_a_password_is_rotated_while_the_project_runs(project: Project) -> None:
    project.run("run", "--rm", "credentials", "rotate", "small")
    project.run("exec", "-T", "rabbitmq", "rabbitmqctl", "import_definitions", "/run/credentials/definitions.json")
    project.run("restart", "small")
    for role in ("orchestrator", "api"):
        project.run("run", "--rm", "credentials", "rotate", f"database-{role}")
    project.run("exec", "-T", "postgres", "sh", "/docker-entrypoint-initdb.d/10-trim.sh")
    project.run("restart", "orchestrator", "api")
    until(lambda: project.is_healthy(ROLES))
    with project.api() as api:
        assert _ended(api, _submit(api)[0])["statuses"] == {"succeeded": 60}


WRONG = [
    ("small", "TRIM_SMALL_MODEL", "/app/models/none"),
    ("small", "TRIM_BROKER_URL_FILE", "/run/credentials/none"),
    ("orchestrator", "TRIM_WINDOW", "many"),
    ("api", "TRIM_MAX_BODY_BYTES", "1"),
]


@pytest.mark.parametrize(("service", "variable", "value"), WRONG)
def test_wrong_settings_show_as_an_unhealthy_container_and_one_sentence(
    project: Project, tmp_path: Path, service: str, variable: str, value: str
) -> None:
    """The container is not restarted again and again."""
    override = tmp_path / "wrong.json"
    override.write_text(json.dumps({"services": {service: {"environment": {variable: value}}}}))
    files = ("compose.yaml", str(override))
    try:
        project.run("up", "--detach", "--no-build", "--no-deps", service, files=files)
        until(lambda: [each["Health"] for each in project.containers(service)] == ["unhealthy"])
        assert [each["State"] for each in project.containers(service)] == ["running"]
        lines = project.run("logs", "--no-log-prefix", service).splitlines()
        assert sum((line.startswith(f"{service}: ") and value in line) or variable in line for line in lines) == 1
        assert lines[-1].startswith("Not restarted")
    finally:
        project.run("up", "--detach", "--no-build", "--no-deps", service)
