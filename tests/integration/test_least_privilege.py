"""The service on RabbitMQ with one user for each role, who may do what docs/operations/rabbitmq.md lists."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import pytest
from kombu.connection import Connection
from pydantic import SecretStr
from typer.testing import CliRunner

from chaos.deployment import PATIENCE_S, deployed
from cli.app import app
from shared.bus import amqp_dead_letters
from shared.bus.broker_state import read_broker
from shared.bus.connection import BrokerRefused, connect
from shared.bus.permissions import permissions_of, permissions_of_operators
from shared.bus.publisher import Publisher
from shared.bus.topology import EVENTS, QUEUES, DeadLetter, Topology
from shared.settings import Settings
from tests.integration.conftest import missing
from tests.integration.deleting import SCRIPT as WORK
from tests.integration.deleting import check_workers_hear_cancels, delete_each_under_load
from tests.integration.test_recovery import SCRIPT, SOLUTION

pytestmark = pytest.mark.servers

PREFIX = "trim"
PEOPLE = ("admin", "operator")


def rabbitmqctl(*arguments: str, given: str = "") -> None:
    done = subprocess.run(
        ["rabbitmqctl", "-q", *arguments], input=given, capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def password_hash(password: str) -> str:
    """Hash a password as definitions of RabbitMQ hold it."""
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


@pytest.fixture(scope="module")
def broker_urls(rabbitmq_server: str) -> Iterator[Mapping[str, str]]:
    """URLs of a fresh virtual host: of each role, of the `operator`, and of the `admin`, who may do all."""
    if shutil.which("rabbitmqctl") is None:
        missing("rabbitmqctl is not in PATH")
    name = f"trim_scratch_{secrets.token_hex(4)}"
    server = urlsplit(rabbitmq_server)
    users = {role: f"{name}_{role}" for role in (*QUEUES, *PEOPLE)}
    allowed = {"admin": (".*", ".*", ".*"), "operator": permissions_of_operators(PREFIX)}
    definitions = {
        "vhosts": [{"name": name}],
        "users": [{"name": user, "password_hash": password_hash(user), "tags": ""} for user in users.values()],
        "permissions": [
            {"user": user, "vhost": name, "configure": configure, "write": write, "read": read}
            for role, user in users.items()
            for configure, write, read in [allowed[role] if role in PEOPLE else permissions_of(role, PREFIX)]
        ],
    }
    hosted = server.netloc.rpartition("@")[2]
    urls = {
        "orchestrator" if role == EVENTS else role: urlunsplit(("amqp", f"{user}:{user}@{hosted}", quote(name), "", ""))
        for role, user in users.items()
    }
    rabbitmqctl("import_definitions", given=json.dumps(definitions))
    try:
        wait_until_imported(urls.values())
        yield urls
    finally:
        rabbitmqctl("delete_vhost", name)
        for user in users.values():
            rabbitmqctl("delete_user", user)


def wait_until_imported(urls: Iterable[str]) -> None:
    """Wait until the broker, which imports definitions in the background, lets every user in."""
    until = time.monotonic() + PATIENCE_S
    for url in urls:
        while True:
            try:
                connect(Settings(broker_url=SecretStr(url))).release()
                break
            except BrokerRefused:
                assert time.monotonic() < until, url
                time.sleep(0.1)


def as_admin(broker_urls: Mapping[str, str], act: Callable[[Topology, Connection], None]) -> None:
    connection = connect(Settings(broker_url=SecretStr(broker_urls["admin"])))
    try:
        act(Topology(PREFIX), connection)
    finally:
        connection.release()


def test_roles_with_no_more_than_their_permissions_solve_problems_also_after_the_broker_lost_its_queues(
    tmp_path: Path, database_url: str, broker_urls: Mapping[str, str]
) -> None:
    own = {role: {"broker_url": url} for role, url in broker_urls.items() if role not in PEOPLE}
    settings = {"queue_prefix": PREFIX, "log_level": "debug"}
    with deployed(
        tmp_path, database_url=database_url, broker_url=broker_urls["admin"], own=own, script=SCRIPT, **settings
    ) as deployment:
        for is_first in (True, False):
            ids = deployment.submit(4, lookahead=2, step_timeout_s=2, max_attempts=10)
            rows = deployment.finish(ids)
            assert {row["status"] for row in rows} == {"succeeded"}
            assert [deployment.trajectory(each) for each in ids] == [SOLUTION] * len(ids)
            if is_first:
                logs = "".join(map(deployment.log, own))
                assert "broker_forbids" not in logs
                assert "broadcast_listener_disconnected" not in logs
                as_admin(broker_urls, Topology.delete)
        assert set(deployment.dead_letters().values()) == {0}


def test_roles_with_no_more_than_their_permissions_go_on_whatever_is_deleted(
    tmp_path: Path, database_url: str, broker_urls: Mapping[str, str]
) -> None:
    own = {role: {"broker_url": url} for role, url in broker_urls.items() if role not in PEOPLE}
    settings = {"queue_prefix": PREFIX, "concurrency": "1"}
    with deployed(
        tmp_path, database_url=database_url, broker_url=broker_urls["admin"], own=own, script=WORK, **settings
    ) as deployment:
        delete_each_under_load(deployment, broker_urls["admin"])
        check_workers_hear_cancels(deployment)


@contextmanager
def worker(folder: Path, broker_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a PRM worker, which logs to a file in the folder."""
    script = folder / "script.json"
    script.write_text("{}")
    environment = {
        "TRIM_BROKER_URL": broker_url, "TRIM_ENGINE": "scripted", "TRIM_SCRIPT": str(script), "TRIM_LOG_FORMAT": "json",
    }  # fmt: skip
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "services.prm"], env={**os.environ, **environment}, stderr=log
        ) as process,
    ):
        yield process
        process.terminate()


def logged(folder: Path, event: str) -> dict[str, str]:
    """Wait for a line of the worker's log."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        for line in (folder / "log").read_text().splitlines():
            if line.startswith("{") and (found := json.loads(line))["event"] == event:
                return found
        time.sleep(0.05)
    raise AssertionError((folder / "log").read_text())


def test_a_worker_that_may_not_create_queues_waits_for_them_and_names_them(
    tmp_path: Path, broker_urls: Mapping[str, str]
) -> None:
    as_admin(broker_urls, Topology.delete)
    with worker(tmp_path, broker_urls["prm"]):
        waiting = logged(tmp_path, "broker_awaited")
        user = urlsplit(broker_urls["prm"]).username
        assert waiting["code"] == "queues_missing"
        assert "The broker has no exchange trim, no exchange trim.dead" in waiting["detail"]
        assert (
            f"no queue trim.prm, no queue trim.events.dead, no queue trim.events, and {user} may not"
            in waiting["detail"]
        )
        as_admin(broker_urls, lambda topology, connection: topology.declare(connection.default_channel))
        assert logged(tmp_path, "worker_started")


def test_a_worker_that_may_not_read_its_queue_names_the_permission(
    tmp_path: Path, broker_urls: Mapping[str, str]
) -> None:
    as_admin(broker_urls, lambda topology, connection: topology.declare(connection.default_channel))
    with worker(tmp_path, broker_urls["small"]) as process:  # the user of another role
        assert process.wait(PATIENCE_S) == 1
    *_, last = (tmp_path / "log").read_text().splitlines()
    assert last.startswith("prm: The broker forbids an operation; grant the user of TRIM_BROKER_URL the permission")
    assert "access to queue 'trim.prm' in vhost" in last


def test_an_operator_with_no_more_than_the_permissions_handles_dead_letters_and_sees_the_queues(
    broker_urls: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_admin(broker_urls, Topology.delete)
    as_admin(broker_urls, lambda topology, connection: topology.declare(connection.default_channel))
    monkeypatch.setenv("TRIM_BROKER_URL", broker_urls["operator"])
    monkeypatch.setattr(amqp_dead_letters, "RENEW_AT", 0)  # Each look publishes the letter again.
    with closing(Publisher(Settings(broker_url=SecretStr(broker_urls["admin"])))) as publisher:
        publisher.publish([DeadLetter("small", body, "it is broken") for body in (b"[1]", b"[2]")])
    for arguments in (["list"], ["replay", "--all", "--queue", "small", "--yes"], ["discard", "--all", "--yes"]):
        done = CliRunner().invoke(app, ["dead-letters", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    state = read_broker(Settings(broker_url=SecretStr(broker_urls["operator"])))
    assert state.takes_messages is True
    assert [(each.role, each.ready, each.dead) for each in state.queues if each.ready or each.dead] == [("small", 2, 0)]
    seen = read_broker(Settings(broker_url=SecretStr(broker_urls["prm"])))
    assert (seen.queues[0].ready, seen.takes_messages) == (2, True), "workers may publish events"


def test_an_operator_without_a_permission_learns_which(
    broker_urls: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_admin(broker_urls, lambda topology, connection: topology.declare(connection.default_channel))
    with closing(Publisher(Settings(broker_url=SecretStr(broker_urls["admin"])))) as publisher:
        publisher.publish([DeadLetter("small", b"[1]", "it is broken")])
    monkeypatch.setenv("TRIM_BROKER_URL", broker_urls["prm"])
    done = CliRunner().invoke(app, ["dead-letters", "list"])
    assert done.exit_code == 3
    assert done.stderr.startswith("trim: The broker forbids an operation; grant the user of TRIM_BROKER_URL the permis")
    assert "access to queue 'trim.small.dead' in vhost" in done.stderr
