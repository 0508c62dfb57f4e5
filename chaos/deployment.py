"""The service with a scripted engine, every role a process, on servers of the caller's choice."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg.rows import dict_row

from shared.bus.connection import connect, is_pgmq
from shared.bus.topology import QUEUES, Topology
from shared.settings import Settings
from stack.client import Api
from stack.roles import ROLES, Roles
from stack.scratch import scratch_prefix, scratch_queues

PATIENCE_S = 240.0

CONNECTIONS = 32
"""Connections to Postgres that a deployment with RabbitMQ opens at most, with those of its test."""

PGMQ_CONNECTIONS = 65
"""Connections to Postgres that a deployment with pgmq opens at most, with those of its caller."""

PGMQ_ROLE_CONNECTIONS = 11
"""Connections that a further process of it opens."""

ROOM_PATIENCE_S = 300.0
"""Seconds that a deployment waits until another one has closed its connections."""


class NeverHappened(AssertionError):
    """Something did not come to pass in time."""


@dataclass(frozen=True)
class Deployment:
    """A running service and ways to look at it."""

    api: Api
    roles: Roles
    settings: Settings
    database_url: str

    def submit(self, count: int, **choices: Any) -> list[str]:
        """Submit problems as a batch; return their ids."""
        problems = [{"question": f"What is problem {index}?", "reference": "7"} for index in range(count)]
        return self.submit_all(problems, **choices)

    def submit_all(self, problems: list[dict[str, Any]], **choices: Any) -> list[str]:
        """Submit given problems as a batch; return their ids."""
        batch = self.api.submit(problems, choices)
        query = "SELECT id FROM problems WHERE batch_id = %s ORDER BY batch_index"
        return [str(row["id"]) for row in self.rows(query, batch)]

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """Read rows from the database."""
        with psycopg.connect(self.database_url, autocommit=True, row_factory=dict_row) as connection:
            return connection.execute(query.encode(), parameters).fetchall()

    def problems(self, ids: list[str]) -> list[dict[str, Any]]:
        """Read problems in the order of their ids' list."""
        found = {str(row["id"]): row for row in self.rows("SELECT * FROM problems WHERE id = ANY(%s::uuid[])", ids)}
        return [found[each] for each in ids]

    def finish(self, ids: list[str], *, patience_s: float = PATIENCE_S) -> list[dict[str, Any]]:
        """Wait until problems have ended; return their rows."""
        self.until(
            lambda: (
                not self.rows(
                    "SELECT 1 FROM problems WHERE id = ANY(%s::uuid[]) AND status IN ('queued', 'running')", ids
                )
            ),
            patience_s=patience_s,
        )
        return self.problems(ids)

    def trajectory(self, problem_id: str) -> list[tuple[int, str, str]]:
        """Read index, author and text of a problem's steps."""
        query = "SELECT step, author, text FROM steps WHERE problem_id = %s ORDER BY step"
        return [(row["step"], row["author"], row["text"]) for row in self.rows(query, problem_id)]

    def log(self, role: str) -> str:
        """Read what a role has logged so far."""
        return (self.roles.logs / f"{role}.log").read_text(encoding="utf-8")

    def metrics_address(self, role: str) -> str:
        """Return where a role serves its metrics and its health (`metrics_port="0"`)."""
        self.until(lambda: "metrics_served" in self.log(role))
        line = [line for line in self.log(role).splitlines() if "metrics_served" in line][-1]
        address: str = re.findall(r"http://[\w.:]+", line)[0]
        return address

    def dead_letters(self) -> dict[str, int]:
        """Count the messages in each dead-letter queue."""
        topology = Topology(self.settings.queue_prefix)
        connection = connect(self.settings)
        try:
            channel = connection.default_channel
            return {role: topology.dead_letters(role)(channel).queue_declare(passive=True)[1] for role in QUEUES}
        finally:
            connection.release()

    def until(self, holds: Callable[[], object], *, patience_s: float = PATIENCE_S) -> None:
        """Wait until something holds.

        Raises:
            NeverHappened: It did not come to pass in time; the message names some open problems.
        """
        deadline = time.monotonic() + patience_s
        while not holds():
            if time.monotonic() > deadline:
                query = "SELECT id, status, epoch, request, attempts, due_at FROM problems WHERE finished_at IS NULL"
                stuck = self.rows(query)
                raise NeverHappened(f"It did not come to pass in {patience_s:.0f} s. Open problems: {stuck[:3]}")
            time.sleep(0.05)


@contextmanager
def deployed(
    folder: Path,
    *,
    database_url: str,
    broker_url: str,
    script: Mapping[str, Any],
    own: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    more_roles: Mapping[str, Sequence[str]] = MappingProxyType({}),
    problems_may_wait: bool = False,
    **settings: str,
) -> Iterator[Deployment]:
    """Run the service for as long as the block does.

    Args:
        folder: Folder for the script and the logs.
        database_url: Database with the newest schema.
        broker_url: URL of either broker.
        script: Steps of the scripted engine.
        own: Settings of roles that differ from the others'.
        more_roles: Further processes by name, each with its arguments for Python.
        problems_may_wait: Whether the block begins once submissions are accepted, whether all roles are fit or not.
        **settings: Settings of all roles, by the names of `Settings`.
    """
    path = folder / "script.json"
    path.write_text(json.dumps(script), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "TRIM_DATABASE_URL": database_url,
        "TRIM_BROKER_URL": broker_url,
        "TRIM_QUEUE_PREFIX": scratch_prefix(),
        "TRIM_API_PORT": str(port),
        "TRIM_ENGINE": "scripted",
        "TRIM_SCRIPT": str(path),
        "TRIM_HEARTBEAT_S": "1",
        "TRIM_SWEEP_INTERVAL_S": "0.2",
        "TRIM_VISIBILITY_TIMEOUT_S": "5",
        "TRIM_STOP_GRACE_S": "2",
        **_variables(settings),
    }
    configured = Settings.model_validate(
        {name.removeprefix("TRIM_").lower(): value for name, value in environment.items()}
    )
    api = Api(f"http://127.0.0.1:{port}")
    commands = {
        role: [*map("=".join, _variables(own[role]).items()), sys.executable, *arguments] if role in own else arguments
        for role, arguments in {**ROLES, **more_roles}.items()
    }
    started = Roles(
        {**os.environ, **environment},
        folder / "logs",
        roles=commands,
        interpreters=dict.fromkeys(own, "/usr/bin/env"),
    )
    with scratch_queues(configured), api, ExitStack() as running:
        more = len(more_roles.keys() - ROLES.keys())
        pgmq = PGMQ_CONNECTIONS + PGMQ_ROLE_CONNECTIONS * more
        with _with_room(configured, pgmq if is_pgmq(configured) else CONNECTIONS):
            roles = running.enter_context(started)
            api.wait_until_ready(roles.check, problems_may_wait=problems_may_wait)
        yield Deployment(api, roles, configured, database_url)


def _variables(settings: Mapping[str, str]) -> dict[str, str]:
    return {f"TRIM_{name.upper()}": value for name, value in settings.items()}


@contextmanager
def _with_room(settings: Settings, connections: int) -> Iterator[None]:
    """Let one deployment start at a time, once the server has room for its connections.

    Where another one keeps that room for long, this one starts all the same: it may still find enough.
    """
    with Path(tempfile.gettempdir(), f"trim-tests-{os.getuid()}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        until = time.monotonic() + ROOM_PATIENCE_S
        while _free_connections(settings.require_database_url()) < connections and time.monotonic() < until:
            time.sleep(0.5)
        yield


def _free_connections(database_url: str) -> int:
    query = """
        SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
               - count(*)
        FROM pg_stat_activity WHERE backend_type = 'client backend'
    """
    with suppress(psycopg.OperationalError), psycopg.connect(database_url, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])
    return 0
