"""The service goes from the previous version to this one and back, process by process, while problems are solved."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from evaluation.engines import loaded_engines
from evaluation.in_process import solve
from migrations.verifying import verify
from shared.domain.options import Sampling
from shared.domain.roles import WorkerRole
from shared.policies.threshold import Threshold
from shared.settings import Settings
from stack.roles import ROLES
from stack.sample import GREEDY, SAMPLE
from stack.scratch import scratch_prefix, scratch_queues
from tests.integration.fleets import Fleet, Load, Service

pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("services", "shared", "migrations")
PROBLEMS = [json.loads(line) for line in SAMPLE.read_text().splitlines()[:10]]
CHOICES = {"sampling": GREEDY, "policy": {"name": "threshold"}, "lookahead": 2}
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
            stack.enter_context(fleet)
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
    service = Service(unmigrated_url, PROBLEMS, CHOICES)
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
