"""Roles start whatever the broker does, and stop at every moment of their start."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from chaos.deployment import PATIENCE_S, deployed
from chaos.proxy import Proxy
from stack.roles import ROLES

pytestmark = pytest.mark.servers

ANSWERS = 60
"""More answers than a connection of any role gets until it consumes or publishes."""

HANDSHAKE = 3
"""Answers until a connection is open."""

SCRIPT = {"default": [{"small": "A step."}, {"small": "So it is \\boxed{7}."}]}


@pytest.mark.parametrize(
    "lives",
    [
        pytest.param(range(ANSWERS), id="while-it-waits"),
        # The first connection only finds out whether the broker is there.
        pytest.param([math.inf, *range(HANDSHAKE, ANSWERS)], id="while-it-subscribes"),
    ],
)
def test_roles_start_although_each_of_their_connections_is_cut_one_answer_later(
    tmp_path: Path, database_url: str, rabbitmq_server: str, lives: Iterable[float]
) -> None:
    roles = [role for role in ROLES if role != "api"]  # It has no broker.
    with ExitStack() as running:
        cut = {role: running.enter_context(Proxy(rabbitmq_server, lives=lives)) for role in roles}
        deployment = running.enter_context(
            deployed(
                tmp_path, database_url=database_url, broker_url=rabbitmq_server, script=SCRIPT, heartbeat_s="0.2",
                own={role: {"broker_url": proxy.url} for role, proxy in cut.items()},
                more_roles={role: ["-m", "tests.integration.hasty_role", *ROLES[role][1:]] for role in roles},
            )
        )  # fmt: skip
        pids = deployment.roles.pids()
        rows = deployment.finish(deployment.submit(2, step_timeout_s=2, max_attempts=20))
        deployment.roles.check()
        assert deployment.roles.pids() == pids
        log = "".join(map(deployment.log, roles))
        assert "[warning" in log, "too late"
        assert "Traceback" not in log, log.partition("Traceback")[2][:2000]
    assert {row["status"] for row in rows} == {"succeeded"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize(
    ("role", "moment"),
    [
        ("api", "condition_met"),
        ("api", "api_started"),
        ("orchestrator", "condition_met"),
        ("orchestrator", "orchestrator_started"),
        ("orchestrator", "server_awaited"),
        ("small", "model_loading"),
        ("large", "engine_started"),
        ("prm", "broker_awaited"),
        ("prm", "worker_started"),
    ],
)
def test_a_role_stops_at_every_moment_of_its_start(
    tmp_path: Path, database_url: str, role: str, moment: str, number: signal.Signals
) -> None:
    """The broker is pgmq: RabbitMQ deletes a private queue by itself."""
    script = tmp_path / "script.json"
    if moment == "model_loading":
        os.mkfifo(script)  # The engine waits for somebody to write it.
    else:
        script.write_text(json.dumps(SCRIPT))
    broker = (
        "amqp://guest:guest@127.0.0.1:1//" if "awaited" in moment else database_url.replace("postgresql", "pgmq", 1)
    )
    environment = {
        **os.environ, "TRIM_DATABASE_URL": database_url, "TRIM_BROKER_URL": broker, "TRIM_ENGINE": "scripted",
        "TRIM_SCRIPT": str(script), "TRIM_API_PORT": "0", "TRIM_LOG_FORMAT": "json", "TRIM_QUEUE_PREFIX": "starting",
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, *ROLES[role]], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            assert any(f'"event": "{moment}"' in line for line in process.stderr)
            process.send_signal(number)
            _, rest = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode in (0, -number), rest
    assert "Traceback" not in rest
    with psycopg.connect(database_url) as connection:
        left = connection.execute("SELECT relname FROM pg_class WHERE relname LIKE 'q\\_%cancels%'").fetchall()
    assert [name for (name,) in left if role in name] == []
