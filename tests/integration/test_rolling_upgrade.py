"""The service goes from the previous version to this one and back, process by process, while problems are solved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import make_url

from evaluation.engines import loaded_engines
from evaluation.in_process import solve
from migrations.verifying import verify
from shared.domain.options import Sampling
from shared.domain.roles import WorkerRole
from shared.policies.threshold import Threshold
from shared.settings import Settings
from stack.client import Api, ApiRefused, Unreachable
from stack.roles import ROLES, Roles
from stack.running import free_port
from stack.sample import GREEDY, SAMPLE
from stack.scratch import scratch_prefix, scratch_queues

pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("services", "shared", "migrations")
PATIENCE_S = 90.0

PROBLEMS = [json.loads(line) for line in SAMPLE.read_text().splitlines()[:10]]
OPEN = 4
"""Number of problems that are unsolved at any time."""

ORDER = (("orchestrator",), ("api",), tuple(WorkerRole))
"""Order of an upgrade, after the schema (docs/operations/upgrading.md)."""


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


def previous_version() -> str:
    """Return the newest tag before the code at hand, or else the commit before it."""
    before = "HEAD" if git("status", "--porcelain", "--untracked-files=no", "--", *PACKAGES) else "HEAD~1"
    try:
        return git("describe", "--tags", "--abbrev=0", "--match", "v*", before).decode().strip()
    except subprocess.CalledProcessError:
        return before


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the code of the previous version."""
    folder = tmp_path_factory.mktemp("previous")
    try:
        archive = git("archive", previous_version(), *PACKAGES)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = f"the code of the previous version is missing ({error}); check out the repository with its history"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


@pytest.fixture
def unmigrated_url(postgres_server: str) -> Iterator[str]:
    """URL of an empty database."""
    name = f"trim_upgraded_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@dataclass(frozen=True)
class Fleet:
    """The roles of one version, each a process of a name that no other fleet uses."""

    name: str
    interpreter: Path
    """Runs Python on the code of the version."""
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
        body = {**problem, "sampling": GREEDY, "policy": {"name": "threshold"}, "lookahead": len(key) % 3}
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
                    problem_id = self._service.submit(PROBLEMS[number % len(PROBLEMS)], key=str(number))
                    self.submitted[problem_id] = number % len(PROBLEMS)
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.error = error


def solve_alone() -> list[list[tuple[str, str]]]:
    """Solve the problems without a service; return the author and text of each problem's steps."""
    problems = [(each["question"], each["reference"]) for each in PROBLEMS]
    with loaded_engines(Settings()) as engines:
        states = solve(problems, Threshold(), engines, sampling=Sampling(**GREEDY))  # type: ignore[arg-type]
    return [[(step.author.value, step.text) for step in state.steps] for state in states]


@contextmanager
def three_fleets(folder: Path, previous: Path, environment: Mapping[str, str]) -> Iterator[tuple[Fleet, Fleet, Fleet]]:
    """Prepare fleets of the previous version, of this one, and of the previous one again; stop them after the block."""
    with ExitStack() as stack:
        codes = (("old", previous), ("new", ROOT), ("back", previous))
        old, new, back = (Fleet.of(name, code, folder, environment) for name, code in codes)
        for fleet, (_, code) in zip((old, new, back), codes, strict=True):
            stack.push(fleet.roles)
            stack.enter_context(fleet.api)
            assert Path(fleet.run("-c", "import shared; print(shared.__file__)")).is_relative_to(code)
        yield old, new, back


def test_a_rolling_upgrade_and_the_way_back_lose_and_double_nothing(
    tmp_path: Path, previous: Path, unmigrated_url: str, rabbitmq_server: str
) -> None:
    environment = {
        "TRIM_DATABASE_URL": unmigrated_url, "TRIM_BROKER_URL": rabbitmq_server, "TRIM_QUEUE_PREFIX": scratch_prefix(),
        "TRIM_HEARTBEAT_S": "1", "TRIM_SWEEP_INTERVAL_S": "0.2",
        **{f"TRIM_{role.upper()}_MODEL": str(ROOT / "models" / role) for role in WorkerRole},
    }  # fmt: skip
    configured = {name.removeprefix("TRIM_").lower(): value for name, value in environment.items()}
    settings = Settings.model_validate(configured)
    service = Service(unmigrated_url)
    with scratch_queues(settings), three_fleets(tmp_path, previous, environment) as (old, new, back):
        service.fleets = (old, new, back)
        old.run("-m", "migrations", "upgrade", **environment)
        for role in ROLES:
            old.roles.start(role)
        service.balanced = [old.api]
        old.api.wait_until_ready(old.roles.check)
        with Load(service) as load:
            new.run("-m", "migrations", "upgrade", **environment)
            for roles in ORDER:
                service.replace(old, new, roles)
            for roles in ORDER[::-1]:
                service.replace(new, back, roles)
        assert load.error is None, load.error
        service.until(lambda: service.count("finished_at IS NULL") == 0)
        lines: list[str] = []
        assert verify(settings, allow_open=False, tell=lines.append), lines

    solved = {str(row["id"]): row["status"] for row in service.rows("SELECT id, status FROM problems")}
    assert solved == dict.fromkeys(load.submitted, "succeeded")
    alone = solve_alone()
    for problem_id, index in load.submitted.items():
        steps = service.rows("SELECT author, text FROM steps WHERE problem_id = %s ORDER BY step", problem_id)
        assert [(row["author"], row["text"]) for row in steps] == alone[index]

    workers = {row["worker"] for row in service.rows("SELECT DISTINCT worker FROM steps")}
    workers |= {row["prm_worker"] for row in service.rows("SELECT DISTINCT prm_worker FROM decisions")}
    assert {f"{fleet.name}-{role}-0" for fleet in service.fleets for role in WorkerRole} <= workers
    for fleet in service.fleets:
        assert "problem_ended" in fleet.log(), "each orchestrator has decided"
        assert "Traceback" not in fleet.log()
