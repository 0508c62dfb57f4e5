"""The embedded default, as a user starts it: Postgres from the wheel, pgmq on it, every role a child process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder outside of pytest's: under root, Postgres runs as another user, and pytest closes its own to others."""
    with tempfile.TemporaryDirectory(prefix="trim-stack-") as made:
        yield Path(made)


@pytest.fixture
def environment() -> dict[str, str]:
    """The test's own environment without the settings of real servers."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRIM_")}
    return {**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}


def left_running(folder: Path) -> list[str]:
    """Find processes that work in a folder, or on a Postgres that lies in it."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        try:
            command = " ".join(process.info["cmdline"] or ())
            if str(folder) in command or Path(process.cwd()).is_relative_to(folder):
                found.append(command)
        except psutil.Error:
            continue
    return found


def run_sample(folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "stack", "run"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_sample_is_solved_twice_with_the_same_figures_and_nothing_is_left_running(
    folder: Path, environment: dict[str, str]
) -> None:
    tables = []
    for _ in range(2):
        printed = run_sample(folder, environment)
        rows = re.findall(
            r"│ (threshold 0.5|small-only|large-only) +│ +([\d.]+)% │ +(\d+) │ +(\d+) │ +(\d+) │", printed
        )
        assert [name for name, *_ in rows] == ["threshold 0.5", "small-only", "large-only"]
        tables.append(rows)
        assert left_running(folder) == []
    assert tables[0] == tables[1]
    routed, small, large = ([float(figure) for figure in row[1:]] for row in tables[0])
    assert small[0] < routed[0] >= large[0] - 2, "the large model's accuracy, or nearly"
    assert routed[3] < large[3] / 4, "for a fraction of its tokens"


@pytest.fixture
def serving(folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A stack that serves."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stack", "serve"],
        cwd=folder, env={**environment, "TRIM_API_PORT": "18080"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("Serving:"):
                break
        yield process
    finally:
        process.stdout.close()
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(60)


def test_ctrl_c_stops_all_of_it(serving: subprocess.Popen[str], folder: Path) -> None:
    assert len(left_running(folder)) > 5
    serving.send_signal(signal.SIGINT)
    assert serving.wait(60) == 0
    assert left_running(folder) == []


def test_roles_end_with_a_stack_that_was_killed(serving: subprocess.Popen[str], folder: Path) -> None:
    roles = psutil.Process(serving.pid).children()
    roles = [role for role in roles if "services." in " ".join(role.cmdline())]
    assert len(roles) == 5
    serving.kill()
    _, alive = psutil.wait_procs(roles, timeout=60)
    assert alive == []
    # Postgres outlives a killed stack, as a server does; the next one takes it over, and stops it.
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "-D" in command and str(folder) in " ".join(command):
            process.terminate()
            process.wait(30)
    assert left_running(folder) == []


def test_a_port_that_is_taken_is_told_in_one_sentence(serving: subprocess.Popen[str], folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRIM_")}
    done = subprocess.run(
        [sys.executable, "-m", "stack", "serve"],
        cwd=other, env={**inherited, "PYTHONPATH": str(ROOT), "TRIM_API_PORT": "18080"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "18080" in done.stderr
    assert "Traceback" not in done.stderr
