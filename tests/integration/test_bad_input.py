"""What keeps a role from starting: it ends with one sentence that names what to change, or waits and logs that."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from kombu.entity import Queue
from pydantic import SecretStr

from chaos.deployment import PATIENCE_S
from shared.bus.connection import connect
from shared.settings import Settings
from stack.roles import ROLES
from stack.scratch import scratch_prefix, scratch_queues

pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parents[2]
COMMANDS: Mapping[str, Sequence[str]] = {**ROLES, "migrate": ["-m", "migrations", "upgrade"]}
NOBODY = "127.0.0.1:1"

NO_DATABASE = "postgresql://postgres@{postgres}/trim_does_not_exist"
NO_USER = "postgresql://trim_does_not_exist@{postgres}/postgres"
BAD_PORT = "postgresql://postgres:hunter2@127.0.0.1:port/postgres"
BAD_OPTION = "postgresql://postgres:hunter2@127.0.0.1/postgres?unknown=1"
WRONG_PASSWORD = "amqp://guest:hunter2@{rabbitmq}//"
NO_VHOST = "amqp://guest:guest@{rabbitmq}/trim_does_not_exist"

REFUSED_DATABASE = "The database refuses the user, the password or the database of TRIM_DATABASE_URL; correct it"
NOT_POSTGRES = "TRIM_DATABASE_URL names no Postgres database; write postgresql://user:password@host:port/database."
REFUSED_BROKER = "The broker refuses the user, the password or the virtual host of TRIM_BROKER_URL; correct it"
NOT_A_BROKER = "TRIM_BROKER_URL is neither amqp://user:password@host:port/vhost nor pgmq://"


@pytest.fixture
def environment(tmp_path: Path, database_url: str, rabbitmq_server: str) -> dict[str, str]:
    """Settings with which every role starts."""
    script = tmp_path / "script.json"
    script.write_text("{}")
    return {
        "PYTHONPATH": str(ROOT),
        "TRIM_DATABASE_URL": database_url,
        "TRIM_BROKER_URL": rabbitmq_server,
        "TRIM_QUEUE_PREFIX": scratch_prefix(),
        "TRIM_ENGINE": "scripted",
        "TRIM_SCRIPT": str(script),
        "TRIM_API_PORT": "0",
        "TRIM_LOG_FORMAT": "json",
    }


def filled(value: str, environment: Mapping[str, str]) -> str:
    postgres, rabbitmq = (
        environment[f"TRIM_{name}_URL"].rpartition("@")[2].partition("/")[0] for name in ("DATABASE", "BROKER")
    )
    return value.replace("{postgres}", postgres).replace("{rabbitmq}", rabbitmq)


def ends_with(role: str, environment: Mapping[str, str]) -> str:
    """Run a role that cannot start; return its sentence, the only line besides its log."""
    done = subprocess.run(
        [sys.executable, *COMMANDS[role]],
        env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    [sentence] = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert "hunter2" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("role", "variable", "value", "sentence"),
    [
        ("api", "TRIM_DATABASE_URL", NO_DATABASE, REFUSED_DATABASE),
        ("orchestrator", "TRIM_DATABASE_URL", NO_USER, REFUSED_DATABASE),
        ("migrate", "TRIM_DATABASE_URL", NO_USER, REFUSED_DATABASE),
        ("migrate", "TRIM_DATABASE_URL", BAD_PORT, NOT_POSTGRES),
        ("api", "TRIM_DATABASE_URL", BAD_OPTION, NOT_POSTGRES),
        ("orchestrator", "TRIM_BROKER_URL", WRONG_PASSWORD, REFUSED_BROKER),
        ("small", "TRIM_BROKER_URL", NO_VHOST, REFUSED_BROKER),
        ("prm", "TRIM_BROKER_URL", "amqp://guest:hunter2@127.0.0.1:port//", NOT_A_BROKER),
        ("orchestrator", "TRIM_BROKER_URL", "amqp://", NOT_A_BROKER),
        ("prm", "TRIM_BROKER_URL_FILE", "/proc/self", "TRIM_BROKER_URL_FILE names /proc/self, which cannot be read"),
        ("api", "TRIM_API_HOST", "203.0.113.1", "The process cannot listen on 203.0.113.1, port 0 (Cannot assign"),
        (
            "api",
            "TRIM_API_HOST",
            "0.0.0.0",
            "The API would listen on 0.0.0.0 (TRIM_API_HOST) without requiring keys; set",
        ),
    ],
)
def test_a_role_that_cannot_start_ends_with_one_sentence(
    role: str, variable: str, value: str, sentence: str, environment: dict[str, str]
) -> None:
    value = filled(value, environment)
    environment.pop(variable.removesuffix("_FILE"), None)
    environment[variable] = value
    assert ends_with(role, environment).startswith(f"{'migrations' if role == 'migrate' else role}: {sentence}")


def test_the_api_names_a_port_that_is_in_use(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = ends_with("api", {**environment, "TRIM_API_PORT": str(port)})
    reason = f"cannot listen on 127.0.0.1, port {port} (Address already in use)"
    assert sentence == f"api: The process {reason}; change TRIM_API_HOST or TRIM_API_PORT."


@pytest.mark.parametrize("role", ["api", "orchestrator"])
def test_a_schema_that_excludes_this_version_ends_a_role(role: str, environment: dict[str, str]) -> None:
    with psycopg.connect(environment["TRIM_DATABASE_URL"], autocommit=True) as connection:
        connection.execute("UPDATE schema_compatibility SET oldest_code = '9999'")
    assert ends_with(role, environment).endswith("is older than the schema allows (9999); upgrade this process.")


@pytest.mark.parametrize("role", ["orchestrator", "large"])
def test_a_queue_with_other_arguments_ends_a_role(role: str, environment: dict[str, str]) -> None:
    broker, prefix = SecretStr(environment["TRIM_BROKER_URL"]), environment["TRIM_QUEUE_PREFIX"]
    settings = Settings(broker_url=broker, queue_prefix=prefix)
    with scratch_queues(settings):
        connection = connect(settings)
        Queue(f"{prefix}.events", durable=True)(connection.default_channel).queue_declare()
        connection.release()
        sentence = ends_with(role, environment)
    assert "The broker has a queue or exchange with other arguments; delete it, or choose another" in sentence
    assert f"for queue '{prefix}.events'" in sentence


@contextmanager
def started(role: str, environment: Mapping[str, str], event: str, **more: Path) -> Iterator[dict[str, str]]:
    """Start a role and wait for a line of its log; then stop it."""
    with subprocess.Popen(
        [sys.executable, *COMMANDS[role]],
        env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **more,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        lines = []
        try:
            for line in process.stderr:
                lines.append(line)
                if line.startswith("{") and (found := json.loads(line))["event"] == event:
                    break
            else:
                pytest.fail("".join(lines))
            yield found
            process.send_signal(signal.SIGTERM)
            rest = process.stderr.read()
            assert process.wait(PATIENCE_S) == 0, rest
        finally:
            process.kill()


def test_the_api_logs_an_unreachable_database_and_serves(environment: dict[str, str]) -> None:
    environment["TRIM_DATABASE_URL"] = f"postgresql://postgres@{NOBODY}/x"
    with started("api", environment, "database_awaited") as found:
        assert found["code"] == "database_unavailable"


def test_the_api_logs_a_schema_that_is_behind_and_serves(environment: dict[str, str]) -> None:
    with psycopg.connect(environment["TRIM_DATABASE_URL"], autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    with started("api", environment, "database_awaited") as found:
        assert "The database's schema is 0001" in found["detail"]
        assert "run `python -m migrations upgrade`" in found["detail"]


@pytest.mark.parametrize(
    ("role", "event"), [("api", "api_started"), ("orchestrator", "orchestrator_started"), ("prm", "worker_started")]
)
def test_a_role_starts_without_home_path_or_locale(
    role: str, event: str, environment: dict[str, str], tmp_path: Path
) -> None:
    broker, prefix = SecretStr(environment["TRIM_BROKER_URL"]), environment["TRIM_QUEUE_PREFIX"]
    odd = {"LC_ALL": "xx_XX.UNKNOWN", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "TRIM_ENGINE": "embedded"}
    queues = scratch_queues(Settings(broker_url=broker, queue_prefix=prefix))
    with queues, started(role, {**environment, **odd}, event, cwd=tmp_path):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["script.json"], "it wrote to its folder"


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_the_api_serves_ipv6(environment: dict[str, str]) -> None:
    with started("api", {**environment, "TRIM_API_HOST": "::1"}, "api_started") as found:
        assert found["address"].startswith("http://[::1]:")
        port = int(found["address"].rpartition(":")[2])
        with socket.create_connection(("::1", port), PATIENCE_S) as client:
            client.sendall(b"GET /health/live HTTP/1.0\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")


def test_a_role_that_is_still_starting_ends_on_sigterm_by_itself() -> None:
    """As the first process of a container it would otherwise ignore the signal."""
    program = (
        "import time; from shared.process import run; run(lambda _: (print(1, flush=True), time.sleep(60)), role='x')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
