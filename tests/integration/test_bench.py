"""A very small run of the benchmark: what it prints, what it counts, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from kombu.connection import Connection

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "bench.overhead", "--problems", "4", "--sequential", "1", "--repeats", "1"]
ENDLESS = [*COMMAND[:-1], "100000"]
"""Enough work to run until it is interrupted, on any machine."""
NOBODY = "127.0.0.1:9"

pytestmark = pytest.mark.servers


def environment(database_url: str, broker_url: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRIM_")}
    return {**inherited, "TRIM_DATABASE_URL": database_url, "TRIM_BROKER_URL": broker_url}


def databases(server: str) -> set[str]:
    with psycopg.connect(server) as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}


def queues(broker_url: str, names: set[str]) -> set[str]:
    """Find which of the queues exist."""
    found = set()
    with Connection(broker_url) as connection:
        for name in names:
            channel = connection.channel()  # RabbitMQ closes a channel that names a missing queue.
            with suppress(connection.channel_errors):
                channel.queue_declare(queue=name, passive=True)
                found.add(name)
    return found


@pytest.fixture(scope="module")
def result(postgres_server: str, rabbitmq_server: str) -> dict[str, Any]:
    """Return the last line that one run printed."""
    done = subprocess.run(
        COMMAND,
        cwd=ROOT, env=environment(postgres_server, rabbitmq_server), capture_output=True, text=True, timeout=800,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return last


def test_the_last_line_has_the_speed_of_each_design(result: dict[str, Any]) -> None:
    for name in (
        "sequential_ms_per_step", "steps_per_s", "steps_per_s_lookahead4", "plain_sequential_ms_per_step",
        "plain_steps_per_s", "ideal_steps_per_s", "ratio_to_plain",
    ):  # fmt: skip
        assert result[name] > 0, name
    for name in ("steps_per_s", "steps_per_s_lookahead4", "plain_steps_per_s", "ratio_to_plain"):
        least, most = result[f"{name}_range"]
        assert least <= result[name] <= most
    assert result["ratio_to_plain"] == pytest.approx(result["steps_per_s"] / result["plain_steps_per_s"], rel=0.05)


def test_messages_and_transactions_are_those_of_the_designs(result: dict[str, Any]) -> None:
    assert result["plain_messages_per_step"] == 3, "a hop each to the small model, the PRM and the decision"
    assert 1 <= result["plain_transactions_per_step"] < 1.5, "one per event, and late reports of sessions"
    assert 3 <= result["messages_per_step"] < 4, "the same, and heartbeats"
    assert 0 < result["transactions_per_step"] < 3, "concurrent events share one; in a short run the sweeper's count"


def test_cpu_time_is_reported_by_role_and_never_negative(result: dict[str, Any]) -> None:
    assert {"orchestrator", "small", "prm", "large"} <= set(result["cpu_ms_per_step"])
    assert {"small", "prm", "decide"} <= set(result["plain_cpu_ms_per_step"])
    for name in ("cpu_ms_per_step", "plain_cpu_ms_per_step"):
        assert all(value >= 0 for value in result[name].values())


def settings_of(processes: list[psutil.Process]) -> list[dict[str, str]]:
    """Read the settings of processes after exec; between fork and exec, a child still shows its parent's."""
    return [settings for each in processes if "TRIM_QUEUE_PREFIX" in (settings := each.environ())]


@dataclass(frozen=True)
class Running:
    """A running benchmark, and the databases and queues that it has created."""

    process: subprocess.Popen[str]
    children: list[psutil.Process]
    databases: set[str]
    queues: set[str]


@pytest.fixture
def running(postgres_server: str, rabbitmq_server: str) -> Iterator[Running]:
    process = subprocess.Popen(
        ENDLESS, cwd=ROOT, env=environment(postgres_server, rabbitmq_server), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        until = time.monotonic() + 60
        while len(settings := settings_of(children := psutil.Process(process.pid).children())) < 7:
            assert time.monotonic() < until
            time.sleep(0.05)
        names = {f"{each['TRIM_QUEUE_PREFIX']}.{each['TRIM_NODE_NAME'].removesuffix('-0')}" for each in settings}
        made = {name.replace(".decide", ".plain.decide") for name in names if name.endswith((".large", ".decide"))}
        while queues(rabbitmq_server, made) != made:
            assert time.monotonic() < until
            time.sleep(0.05)
        yield Running(process, children, {each["TRIM_DATABASE_URL"].rsplit("/")[-1] for each in settings}, made)
    finally:
        process.stderr.close()
        if process.poll() is None:
            process.kill()
        process.wait(60)


def test_ctrl_c_leaves_nothing_behind(running: Running, postgres_server: str, rabbitmq_server: str) -> None:
    assert len(running.databases & databases(postgres_server)) == 2
    assert len(running.queues) == 2
    running.process.send_signal(signal.SIGINT)
    running.process.send_signal(signal.SIGINT)  # A second Ctrl-C changes nothing.
    _, errors = running.process.communicate(timeout=800)
    assert running.process.returncode == 130
    assert errors.count("\n") == 1, errors
    assert not any(child.is_running() for child in running.children)
    assert not running.databases & databases(postgres_server)
    assert queues(rabbitmq_server, running.queues) == set()


@pytest.mark.parametrize("gone", ["database", "broker"])
def test_an_unreachable_server_is_reported_in_one_sentence(
    gone: str, postgres_server: str, rabbitmq_server: str
) -> None:
    database_url = f"postgresql://postgres@{NOBODY}/postgres" if gone == "database" else postgres_server
    broker_url = f"amqp://guest:guest@{NOBODY}//" if gone == "broker" else rabbitmq_server
    done = subprocess.run(
        COMMAND,
        cwd=ROOT, env=environment(database_url, broker_url), capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"The {gone} does not answer" in done.stderr


def test_the_benchmark_of_waiting_clients_answers_all_of_them(postgres_server: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.waiting", "--clients", "3", "--seconds", "1"],
        cwd=ROOT, env=environment(postgres_server, NOBODY), capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["clients"] == 3
    assert printed["with_others"].keys() == printed["alone"].keys()


def test_the_benchmark_of_streams_finds_the_report_of_each_step_that_arrives(
    postgres_server: str, rabbitmq_server: str
) -> None:
    sizes = ["--sequential", "1", "--in-flight", "2", "--rounds", "1", "--streams", "3", "--seconds", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.streaming", *sizes],
        cwd=ROOT, env=environment(postgres_server, rabbitmq_server), capture_output=True, text=True, timeout=800,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["streams"] == 3
    for part in ("alone", "crowded"):
        assert printed[part]["steps"] > 0
        assert 0 < printed[part]["median_ms"] <= printed[part]["p95_ms"]


def test_a_run_of_completions_prints_what_a_request_costs(postgres_server: str, rabbitmq_server: str) -> None:
    sizes = ["--sequential", "3", "--requests", "6", "--clients", "2", "--repeats", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.gateway", *sizes],
        cwd=ROOT, env=environment(postgres_server, rabbitmq_server), capture_output=True, text=True, timeout=800,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["clients"] == 2
    assert printed["ms_per_request"] > printed["ms_until_started"] + printed["ms_until_solved"] > 0
    assert {"api", "orchestrator", "small"} <= set(printed["cpu_ms_per_request"])


def test_a_run_with_long_and_short_solutions_prints_what_a_step_of_each_costs(
    postgres_server: str, rabbitmq_server: str
) -> None:
    command = [sys.executable, "-m", "bench.lengths", "--lengths", "2", "4", "--problems", "2", "--workers", "1"]
    done = subprocess.run(
        [*command, "--repeats", "1"],
        cwd=ROOT, env=environment(postgres_server, rabbitmq_server), capture_output=True, text=True, timeout=800,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])["per_step"]
    for length in ("2", "4"):
        assert measured[length]["message_bytes"] > 1000, "a step has 500 characters, and goes through three queues"
        assert 3 <= measured[length]["messages"] < 5
        assert measured[length]["steps_per_s"] > 0
        assert "cpu_ms_orchestrator" in measured[length]


def test_two_checkouts_are_compared_in_turns(postgres_server: str, rabbitmq_server: str) -> None:
    command = [sys.executable, "-m", "bench.versions", str(ROOT), "--problems", "2", "--starts", "2", "--turns", "1"]
    done = subprocess.run(
        command,
        cwd=ROOT, env=environment(postgres_server, rabbitmq_server), capture_output=True, text=True, timeout=800,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    compared = json.loads(done.stdout.splitlines()[-1])
    for lookahead in (0, 4):
        for version in ("before", "now"):
            assert compared[f"{version}_steps_per_s_lookahead{lookahead}"] > 0
            assert {"small", "large", "prm", "orchestrator"} < compared[f"{version}_cpu_ms_lookahead{lookahead}"].keys()


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.versions", str(tmp_path)],
        cwd=ROOT, env=environment(NOBODY, NOBODY), capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == f"bench-versions: {tmp_path} is no checkout of this project; make one with git worktree add.\n"
    )
