"""The stack as a user starts it: embedded Postgres, pgmq, every role a child process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import psycopg
import pytest

from shared.domain.roles import WorkerRole
from shared.settings import Settings
from stack.client import Api
from stack.postgres import EmbeddedPostgres
from stack.roles import ROLES
from stack.sample import GREEDY, SAMPLE
from stack.scratch import scratch_database, scratch_prefix, scratch_queues

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 240.0

T = TypeVar("T")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder outside of pytest's: under root, Postgres runs as another user, who has no access to those of pytest."""
    with tempfile.TemporaryDirectory(prefix="trim-stack-") as made:
        needs_quoting = Path(made) / "it's 100% #1 é"
        needs_quoting.mkdir()
        yield needs_quoting


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of the test without settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRIM_")}
    return {**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}


ODD_SHELL = {
    "LC_ALL": "xx_XX.UTF-8",
    "PYTHONIOENCODING": "ascii",
    "PYTHONOPTIMIZE": "2",
    "ALL_PROXY": "socks5://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "TRIM_API_HOST": "0.0.0.0",
    "TRIM_API_KEYS": "none",
    "TRIM_API_KEY": "trim_of_another_service",
    "PGPORT": "1",
    "PGSERVICE": "missing",
    "PGOPTIONS": "--no-such=option",
    "HOME": "/nonexistent",
    "TZ": "Nonsense/Where",
    "TERM": "dumb",
}
"""Variables that a shell may have, and that concern other programs or cannot be used."""


def left_running(folder: Path) -> list[str]:
    """Find processes whose working directory or arguments are in a folder."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        try:
            command = " ".join(process.info["cmdline"] or ())
            if str(folder) in command or Path(process.cwd()).is_relative_to(folder):
                found.append(command)
        except psutil.Error:
            continue
    return found


def test_the_sample_is_solved_in_an_odd_shell_and_nothing_is_left_running(
    folder: Path, environment: dict[str, str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stack", "run"],
        cwd=folder, env=environment | ODD_SHELL, capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "\nKeys:     none are needed, so everyone may use the API who can reach it\n" in done.stdout
    assert "\nModels:   the bundled demonstration models, which solve five kinds" in done.stdout
    printed = done.stdout.replace("|", "│")  # Lines as far as the encoding has them.
    rows = re.findall(
        r"│ (threshold 0.5|pomdp|small-only|large-only) +│ +([\d.]+)% │ +(\d+) │ +(\d+) │ +(\d+) │", printed
    )
    assert [name for name, *_ in rows] == ["threshold 0.5", "pomdp", "small-only", "large-only"]
    assert left_running(folder) == []
    routed, planned, small, large = ([float(figure) for figure in row[1:]] for row in rows)
    for each in (routed, planned):
        assert small[0] < each[0] >= large[0] - 2, "nearly the large model's accuracy"
        assert each[3] < large[3] / 4, "for a fraction of its tokens"


def evaluating(problems: int, *arguments: str) -> list[str]:
    few = ["--problems", str(problems), "--seeds", "1", "--served", "2"]
    return [sys.executable, "-m", "recipe.evaluate", *few, *arguments]


def test_given_models_are_measured_by_the_loop_and_through_the_service_with_the_same_figures(
    folder: Path, environment: dict[str, str]
) -> None:
    for name in ("small", "large", "prm", "prm-lite"):
        shutil.copytree(ROOT / "models" / name, folder / "given" / f"given-{name}")
        (folder / "given" / name).symlink_to(f"given-{name}")
    # The measurement ignores servers and models that the environment names.
    named = {"TRIM_DATABASE_URL": "postgresql://127.0.0.1:1/x", "TRIM_ENGINE": "scripted", "TRIM_SMALL_MODEL": "other"}
    done = subprocess.run(
        evaluating(2, "--models", "given"),
        cwd=folder, env={**environment, **named}, capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    *_, table, last = done.stdout.split("\n\n")
    rows = table.splitlines()[2:]
    assert rows, done.stdout
    assert all(row.split(" | ")[7:10] == ["yes", "2 of 2", "2 of 2"] for row in rows), done.stdout
    assert json.loads(last)["main"]["prm_auc"] > 0.9
    for role in ("small", "large", "prm"):
        assert f"embedded/given-{role}@" in (folder / ".state" / "logs" / f"{role}.log").read_text()
    assert left_running(folder) == []


def test_a_measurement_that_is_stopped_leaves_nothing_behind(folder: Path, environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        evaluating(1), cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert any(line.startswith("Solving") for line in process.stdout), "it ended before it used the service"
    process.terminate()
    _, errors = process.communicate(timeout=800)
    assert (process.returncode, errors) == (130, "evaluate: Stopped before the end; nothing is left behind.\n")
    assert left_running(folder) == []
    with EmbeddedPostgres(folder / ".state" / "postgres") as url, psycopg.connect(url) as connection:
        databases = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
    assert databases == {"postgres", "template0", "template1", "trim"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Serving:
    """A stack that serves."""

    process: subprocess.Popen[str]
    port: int

    @property
    def roles(self) -> dict[str, psutil.Process]:
        """Processes of the running roles."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            try:
                command = child.cmdline()
            except psutil.Error:  # It has just ended.
                continue
            if "-m" in command and (module := command[command.index("-m") + 1 :])[0].startswith("services."):
                found[module[-1].removeprefix("services.")] = child
        return found


@contextmanager
def serving(folder: Path, environment: Mapping[str, str], *, until: str = "Ready:") -> Iterator[Serving]:
    """Run `stack serve` for the duration of the block, which begins once it has printed a line."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "stack", "serve"],
        cwd=folder, env={**environment, "TRIM_API_PORT": str(port)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert any(line.startswith(until) for line in process.stdout), "it ended before it served"
        yield Serving(process, port)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        if not process.stdout.closed:
            process.stdout.read()
            process.stdout.close()
        process.wait(60)


def refused(folder: Path, environment: Mapping[str, str], *command: str) -> str:
    """Run a command that fails with one sentence, and return it."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def psql(folder: Path, environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run what `make psql` runs."""
    return subprocess.run(
        [sys.executable, "-m", "stack", "psql", *arguments],
        cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip


def trim(folder: Path, environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the `trim` command in a folder."""
    return subprocess.run(
        [sys.executable, "-c", "from cli.entry import main; main()", *arguments],
        cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_termination_and_a_closed_terminal_stop_every_process(
    folder: Path, environment: dict[str, str], number: signal.Signals
) -> None:
    with serving(folder, environment, until="Serving:") as served:
        assert len(left_running(folder)) > 5
        assert served.process.stdout is not None
        served.process.stdout.close()  # As after a hang-up, it can print no more.
        served.process.send_signal(number)
        assert served.process.wait(60) == 0
        assert left_running(folder) == []


def test_everything_ends_with_a_killed_stack_and_the_next_one_uses_its_database(
    folder: Path, environment: dict[str, str]
) -> None:
    with serving(folder, environment) as served, Api(f"http://127.0.0.1:{served.port}") as api:
        assert set(served.roles) == set(ROLES)
        api.submit([{"question": "What is 6 times 7?"}], {})
        others = {"PGSERVICE": "nowhere", "PGHOSTADDR": "127.0.0.1", "PGSSLMODE": "require"}
        counted = psql(folder, environment | others, "-At", "-c", "SELECT count(*) FROM problems")
        assert (counted.returncode, counted.stdout, counted.stderr) == (0, "1\n", "")
        found = trim(folder, environment | others, "doctor", "--server", f"http://127.0.0.1:{served.port}")
        assert found.returncode == 0, found.stdout + found.stderr
        assert "at the embedded Postgres in .state answers" in found.stdout
        checked = trim(folder, environment | others, "check")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        listed = trim(folder, environment | others, "dead-letters", "list")
        assert (listed.returncode, listed.stdout, listed.stderr) == (0, "", "There are no dead letters.\n")
        served.process.kill()
        until(lambda: left_running(folder), lambda left: left == [])
    unreachable = psql(folder, environment, "-c", "SELECT 1")
    assert (unreachable.returncode, unreachable.stdout) == (3, "")
    assert unreachable.stderr == (
        "stack: No embedded Postgres runs in this folder; start one with `make serve`, and leave it running.\n"
    )
    with serving(folder, environment):
        assert psql(folder, environment, "-At", "-c", "SELECT count(*) FROM problems").stdout == "1\n"
    assert left_running(folder) == []


def test_a_second_ctrl_c_ends_at_once_what_the_first_one_waits_for(folder: Path, environment: dict[str, str]) -> None:
    script = folder / "script.json"
    endless_steps = [{"small": "On and on.", "small_ms": 3_600_000}]
    script.write_text(json.dumps({"default": [{"small": "So it is."}], "problems": {"Endless?": endless_steps}}))
    endless = {"TRIM_ENGINE": "scripted", "TRIM_SCRIPT": str(script), "TRIM_STOP_GRACE_S": "3600"}
    with serving(folder, {**environment, **endless}) as served, Api(f"http://127.0.0.1:{served.port}") as api:
        assert served.process.stdout is not None
        batch = api.submit([{"question": "Endless?"}], {})
        until(lambda: api.batch(batch), lambda read: read["statuses"].get("running") == 1)
        served.process.send_signal(signal.SIGINT)
        assert "Stopping; press Ctrl-C again to end at once\n" in served.process.stdout
        printed = next(served.process.stdout)
        assert re.fullmatch(r"Waiting for .*small.* to finish their calls, 40 s at most\n", printed)
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(60) == 0
    assert left_running(folder) == []
    assert "received immediate shutdown request" in (folder / ".state" / "logs" / "postgres.log").read_text()


def test_roles_whose_model_server_is_away_do_not_hold_up_the_service(folder: Path, environment: dict[str, str]) -> None:
    server = f"http://127.0.0.1:{free_port()}/v1"
    away = {"TRIM_ENGINE": "openai"}
    for role in WorkerRole:
        away |= {f"TRIM_{role.upper()}_URL": server, f"TRIM_{role.upper()}_MODEL": "m"}
    with serving(folder, {**environment, **away}, until="Waiting:") as served:
        assert served.process.stdout is not None
        with Api(f"http://127.0.0.1:{served.port}") as api:
            assert api.batch(api.submit([{"question": "Later?"}], {}))["size"] == 1
        reported = "still down; it reports: The server of TRIM_"
        assert any(reported in line for line in served.process.stdout)


def test_a_second_stack_and_a_taken_port_are_refused_with_a_sentence(folder: Path, environment: dict[str, str]) -> None:
    with serving(folder, environment) as served:
        assert "Another stack runs in this folder" in refused(folder, environment, "stack", "serve")
        other = folder / "other"
        other.mkdir()
        taken = {**environment, "TRIM_API_PORT": str(served.port)}
        assert f"port {served.port}" in refused(other, taken, "stack", "serve")
        assert not (other / ".state" / "logs").exists(), "nothing was started"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"TRIM_WINDOW": "many"}, "TRIM_WINDOW"),
        ({"TRIM_DATABASE_URL": "mysql://localhost/x"}, "TRIM_DATABASE_URL"),
        ({"TRIM_DATABASE_URL": "postgresql://postgres@127.0.0.1:5432"}, "TRIM_DATABASE_URL names no Postgres database"),
        ({"TRIM_DATABASE_URL": "postgresql://postgres@127.0.0.1:1/x"}, "does not answer"),
        ({"TRIM_API_HOST": "192.0.2.1"}, "TRIM_API_HOST"),
    ],
)
def test_a_wrong_setting_is_reported_in_one_sentence(
    folder: Path, environment: dict[str, str], settings: dict[str, str], sentence: str
) -> None:
    assert sentence in refused(folder, {**environment, **settings}, "stack", "serve")


@pytest.fixture(params=["embedded", "servers"])
def transport(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Settings of the embedded servers, and of real ones."""
    if request.param == "embedded":
        yield {}
        return
    broker_url = request.getfixturevalue("rabbitmq_server")
    with scratch_database(request.getfixturevalue("postgres_server")) as database_url:
        prefix = scratch_prefix()
        with scratch_queues(Settings(broker_url=broker_url, queue_prefix=prefix)):
            yield {"TRIM_DATABASE_URL": database_url, "TRIM_BROKER_URL": broker_url, "TRIM_QUEUE_PREFIX": prefix}


KILLED_OVER = 24
"""Problems that are open when a role is killed."""


def test_a_role_killed_under_load_is_restarted_and_nothing_is_lost_or_doubled(
    folder: Path, environment: dict[str, str], transport: dict[str, str]
) -> None:
    problems = [json.loads(line) for line in SAMPLE.read_text().splitlines()[:KILLED_OVER]]
    choices = {"sampling": GREEDY, "step_timeout_s": 3, "max_attempts": 10, "lookahead": 1}
    with serving(folder, {**environment, **transport}) as served, Api(f"http://127.0.0.1:{served.port}") as api:

        def ended(batch: str) -> dict[str, Any]:
            return until(lambda: api.batch(batch), lambda read: read["statuses"].get("succeeded") == len(problems))

        undisturbed = ended(api.submit(problems, choices))
        for role in ROLES:
            batch = api.submit(problems, choices)
            until(lambda batch=batch: api.batch(batch), lambda read: read["steps"] > 0)
            assert api.batch(batch)["statuses"].get("succeeded", 0) < len(problems), "too late"
            before = served.roles
            before[role].kill()
            until(lambda: served.roles, lambda now, old=before[role], role=role: now.get(role, old) != old)
            api.wait_until_ready(lambda: None)  # it may be the api that was killed
            read = ended(batch)
            kept = ("small_kept", "small_discarded", "large_out")
            assert (read["verdicts"], read["steps"], read["escalations"]) == (
                undisturbed["verdicts"], undisturbed["steps"], undisturbed["escalations"],
            )  # fmt: skip
            assert [read["ledger"][name] for name in kept] == [undisturbed["ledger"][name] for name in kept]


def until(read: Callable[[], T], holds: Callable[[T], object]) -> T:
    """Read until the condition holds, and return what was read."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds(found := read()):
        assert time.monotonic() < deadline, f"The condition did not hold within {PATIENCE_S:.0f} s: {found}"
        time.sleep(0.05)
    return found
