"""A worker that stops finishes what it can, returns the rest, and takes no new commands."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chaos.deployment import Deployment, deployed
from chaos.proxy import Proxy
from shared.process import EXIT_BROKEN

pytestmark = pytest.mark.servers

STEPS = 12
SLOW = {"default": [{"small": f"Step {index}.", "small_ms": 300} for index in range(STEPS)]}
FOREVER_MS = 3_600_000


def begin_stretch(deployment: Deployment) -> str:
    """Have the small worker write a whole solution in one stretch; return the problem while it is being written."""
    [problem_id] = deployment.submit(1, lookahead="unlimited", policy={"name": "small-only"})
    deployment.until(lambda: deployment.trajectory(problem_id))
    assert len(deployment.trajectory(problem_id)) < STEPS, "too late"
    return problem_id


def test_a_stopping_worker_finishes_its_commands(tmp_path: Path, database_url: str, broker_url: str) -> None:
    with deployed(
        tmp_path, database_url=database_url, broker_url=broker_url, script=SLOW, stop_grace_s="30"
    ) as deployment:
        problem_id = begin_stretch(deployment)
        assert deployment.roles.stop("small") == 0
        [row] = deployment.finish([problem_id])
    assert (row["status"], row["small_calls"], row["attempts"]) == ("succeeded", 1, 0)


def test_the_rest_of_what_a_stopping_worker_cannot_finish_in_time_is_written_elsewhere(
    tmp_path: Path, database_url: str, broker_url: str
) -> None:
    with deployed(
        tmp_path, database_url=database_url, broker_url=broker_url, script=SLOW, stop_grace_s="0"
    ) as deployment:
        problem_id = begin_stretch(deployment)
        assert deployment.roles.stop("small") == 0
        deployment.roles.start("small")
        [row] = deployment.finish([problem_id])
    assert (row["status"], row["attempts"], row["request_count"]) == ("succeeded", 0, 2)
    assert row["small_wasted"] <= row["small_kept"] // STEPS, "no finished step is bought again"


def test_a_stopping_worker_takes_no_command_of_the_backlog(tmp_path: Path, database_url: str, broker_url: str) -> None:
    quick = [{"small": f"Step {index}.", "small_ms": 100} for index in range(3)]
    script = {"default": quick, "problems": {"Long?": SLOW["default"]}}
    with deployed(
        tmp_path, database_url=database_url, broker_url=broker_url, script=script, stop_grace_s="30", concurrency="2"
    ) as deployment:
        # One command keeps the worker busy while it stops; it has room for others, which wait in the queue.
        questions = [{"question": "Long?"}, *({"question": f"Quick {index}?"} for index in range(40))]
        ids = deployment.submit_all(questions, lookahead="unlimited", policy={"name": "small-only"})
        deployment.until(lambda: deployment.trajectory(ids[0]))
        assert deployment.roles.stop("small") == 0
        assert any(row["status"] == "running" for row in deployment.problems(ids)), "too late"
        assert set(deployment.dead_letters().values()) == {0}
        deployment.roles.start("small")
        rows = deployment.finish(ids)
    assert {(row["status"], row["request_count"], row["small_calls"]) for row in rows} == {("succeeded", 1, 1)}


def test_a_worker_stops_while_its_broker_is_away(tmp_path: Path, database_url: str, broker_url: str) -> None:
    with (
        Proxy(broker_url) as proxy,
        deployed(
            tmp_path, database_url=database_url, broker_url=proxy.url, script=SLOW, stop_grace_s="1"
        ) as deployment,
    ):
        problem_id = begin_stretch(deployment)
        proxy.cut()
        deployment.until(lambda: "publication_failed" in deployment.log("small"))
        began = time.monotonic()
        assert deployment.roles.stop("small", timeout_s=60) == 0
        assert time.monotonic() - began < 30, "far less than it would wait for the broker"
        proxy.mend()
        deployment.roles.start("small")
        [row] = deployment.finish([problem_id])
    assert row["status"] == "succeeded"


@pytest.mark.parametrize(
    ("broker_url", "breaks_in"), [("rabbitmq", "call"), ("pgmq", "check")], indirect=["broker_url"]
)
def test_a_worker_without_an_engine_requeues_its_commands_and_exits(
    tmp_path: Path, database_url: str, broker_url: str, breaks_in: str
) -> None:
    script = {"default": [{"small": "So it is \\boxed{7}."}]}
    with deployed(tmp_path, database_url=database_url, broker_url=broker_url, script=script) as deployment:
        assert deployment.roles.stop("small") == 0
        ids = deployment.submit(1)
        environment = {
            "TRIM_BROKER_URL": broker_url,
            "TRIM_QUEUE_PREFIX": deployment.settings.queue_prefix,
            "TRIM_HEARTBEAT_S": "0.1",
            "TRIM_STOP_GRACE_S": "0",
        }
        ended = subprocess.run(
            [sys.executable, "-m", "tests.integration.broken_worker", breaks_in],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )
        assert ended.returncode == EXIT_BROKEN
        assert "small: The engine broke down" in ended.stderr
        deployment.roles.start("small")
        [row] = deployment.finish(ids)
    assert (row["status"], row["request_count"], row["attempts"], row["small_calls"]) == ("succeeded", 1, 0, 1)


def test_a_worker_whose_channel_is_closed_goes_on(tmp_path: Path, database_url: str, rabbitmq_server: str) -> None:
    losing = {"small": ["-m", "tests.integration.channel_loser", "small"]}
    with deployed(
        tmp_path, database_url=database_url, broker_url=rabbitmq_server, script=SLOW, more_roles=losing
    ) as deployment:
        pids = deployment.roles.pids()
        began = time.monotonic()
        rows = deployment.finish(deployment.submit(4, lookahead=0, policy={"name": "small-only"}))
        assert "PreconditionFailed" in deployment.log("small")
        assert time.monotonic() - began < 30
        assert deployment.roles.pids() == pids
    assert {(row["status"], row["attempts"]) for row in rows} == {("succeeded", 0)}


def test_a_cancelled_problem_frees_its_worker(tmp_path: Path, database_url: str, broker_url: str) -> None:
    script = {
        "default": [{"small": "So it is \\boxed{7}."}],
        "problems": {"Endless?": [{"small": "On and on.", "small_ms": FOREVER_MS}]},
    }
    with deployed(
        tmp_path, database_url=database_url, broker_url=broker_url, script=script, concurrency="1"
    ) as deployment:
        endless = deployment.submit_all([{"question": "Endless?"}], step_timeout_s=3600)
        deployment.until(lambda: deployment.problems(endless)[0]["status"] == "running")
        waiting = deployment.submit(1)
        deployment.api.cancel(endless[0])
        [cancelled] = deployment.finish(endless)
        [solved] = deployment.finish(waiting)
    assert (cancelled["status"], solved["status"]) == ("cancelled", "succeeded")
