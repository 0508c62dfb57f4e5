"""Fleets of processes that replace each other one by one, under load, as in a deployment."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row

from stack.client import Api, ApiRefused, Unreachable
from stack.roles import ROLES, Roles
from stack.running import free_port

PATIENCE_S = 240.0

OPEN = 4
"""Number of problems that are unsolved at any time."""


@dataclass(frozen=True)
class Fleet:
    """The roles of one version or configuration, each a process of a name that no other fleet uses."""

    name: str
    interpreter: Path
    """Runs Python on the code of the fleet."""
    roles: Roles
    api: Api

    @classmethod
    def of(cls, name: str, code: Path, folder: Path, environment: Mapping[str, str]) -> Self:
        """Prepare a fleet; no role starts yet."""
        port = free_port("127.0.0.1", 0)
        interpreter = folder / name
        interpreter.write_text(
            f"#!/bin/sh\nset -e\ncd '{code}'\nexport PYTHONPATH='{code}' TRIM_API_PORT={port}\n"
            f'export TRIM_NODE_NAME="{name}-$TRIM_NODE_NAME"\nexec \'{sys.executable}\' "$@"\n'
        )
        interpreter.chmod(0o755)
        logs = folder / f"{name}-logs"
        logs.mkdir()
        roles = Roles(environment, logs, interpreters=dict.fromkeys(ROLES, str(interpreter)))
        return cls(name, interpreter, roles, Api(f"http://127.0.0.1:{port}"))

    def __enter__(self) -> Self:
        """Return the fleet, whose roles are started one by one."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop all roles."""
        with self.api:
            self.roles.__exit__(None, None, None)

    def run(self, *arguments: str, **environment: str) -> str:
        done = subprocess.run(
            [self.interpreter, *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def log(self) -> str:
        return "".join(path.read_text() for path in self.roles.logs.iterdir())


@dataclass
class Service:
    """A service of several fleets on one database."""

    database_url: str
    problems: Sequence[Mapping[str, Any]]
    choices: Mapping[str, Any]
    fleets: Sequence[Fleet] = ()
    balanced: Sequence[Api] = ()
    """The APIs that take requests, as a load balancer would list them."""

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.database_url, autocommit=True, row_factory=dict_row) as connection:
            return connection.execute(query.encode(), parameters).fetchall()

    def count(self, condition: str) -> int:
        return int(self.rows(f"SELECT count(*) AS problems FROM problems WHERE {condition}")[0]["problems"])

    def submit(self, problem: Mapping[str, Any], key: str) -> str:
        """Submit at the first API that answers."""
        body = {**problem, **self.choices}
        for api in self.balanced:
            try:
                return str(api.post("/v1/problems", body, headers={"Idempotency-Key": key})["id"])
            except Unreachable:
                continue
        raise AssertionError("no API answered")

    def until(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, self.describe()
            time.sleep(0.05)

    def describe(self) -> str:
        """Return what is open, and what the roles complained about."""
        waiting = self.rows("SELECT id, status, attempts, due_at FROM problems WHERE finished_at IS NULL")
        complaints = [line for fleet in self.fleets for line in fleet.log().splitlines() if "[info" not in line]
        return "\n".join(["", *map(str, waiting), *complaints])

    def replace(self, old: Fleet, new: Fleet, roles: Sequence[str]) -> None:
        """Start roles beside those that run, stop the old ones, and wait until the new ones have solved problems."""
        for role in roles:
            new.roles.start(role)
        if "api" in roles:
            self.until(lambda: is_ready(new.api))
            self.balanced = [new.api]
        else:
            names = [f"{new.name}-{role}-0" for role in roles]
            beating = "SELECT 1 FROM processes WHERE name = ANY(%s)"
            self.until(lambda: len(self.rows(beating, names)) == len(names))
        for role in roles:
            assert old.roles.stop(role) == 0
        solved = self.count("finished_at IS NOT NULL")
        self.until(lambda: self.count("finished_at IS NOT NULL") > solved + OPEN)


def is_ready(api: Api) -> bool:
    try:
        return not {"database", "schema"} & set(api.get("/health/ready")["down"])
    except (Unreachable, ApiRefused):
        return False


class Load:
    """Submits the problems over and over from a thread, so that a number of them is open all the time."""

    def __init__(self, service: Service) -> None:
        self.submitted: dict[str, int] = {}
        """Index of each submitted problem by its id."""
        self.error: BaseException | None = None
        self._service = service
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping.wait(0.05):
                if self._service.count("finished_at IS NULL") < OPEN:
                    number = len(self.submitted)
                    index = number % len(self._service.problems)
                    problem_id = self._service.submit(self._service.problems[index], key=str(number))
                    self.submitted[problem_id] = index
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.error = error
