"""`python -m chaos` on a small load: what it prints, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest

from chaos.scene import Ground, Outcome
from chaos.servers import BROKER_URL, DATABASE_URL

pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parents[2]
BREAK = (
    "import sys; from chaos import __main__, scenarios; from tests.integration.test_chaos_command import broken;"
    " scenarios.SCENARIOS['broken'] = broken; __main__.main()"
)


def broken(ground: Ground) -> Outcome:
    """A scenario after which a step is missing."""
    with ground.scene("broken", step_ms=1) as scene:
        scene.load.submit(2)
        scene.load.finish(patience_s=120)
        with psycopg.connect(scene.deployment.database_url, autocommit=True) as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute("DELETE FROM steps WHERE step = 1")
        return scene.conclude()


def chaos(program: Sequence[str], *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip


def test_a_blip_loses_doubles_and_buys_nothing(tmp_path: Path, postgres_server: str, rabbitmq_server: str) -> None:
    done = chaos(
        ["-m", "chaos"], "--seed", "3", "--blips", "1", "--problems", "8", "--logs", str(tmp_path), "blips",
        **{DATABASE_URL: postgres_server, BROKER_URL: rabbitmq_server},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [row] = [line for line in done.stdout.splitlines() if line.startswith("| blips")]
    name, *counts, small, large, gap_s, invariants = (cell.strip() for cell in row.strip("| ").split("|"))
    assert (name, counts, invariants) == ("blips", ["8", "8", "0", "0", "0"], "hold")
    assert float(small.rstrip("%")) <= 1
    assert float(large.rstrip("%")) <= 1
    assert float(gap_s) > 0
    assert done.stdout.endswith("make chaos SEED=3 SCENARIOS='blips' ARGS='--problems 8 --blips 1'\n")
    assert list(tmp_path.iterdir()) == [], "the logs of a scenario that met its bars are deleted"


def test_a_broken_record_fails_the_command_and_keeps_the_logs(
    tmp_path: Path, postgres_server: str, rabbitmq_server: str
) -> None:
    done = chaos(
        ["-c", BREAK], "--logs", str(tmp_path), "broken",
        **{DATABASE_URL: postgres_server, BROKER_URL: rabbitmq_server},
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "MISSED  broken: FAILED  The steps of a problem have no gap" in done.stdout
    assert (tmp_path / "broken" / "logs" / "orchestrator.log").exists()


@pytest.mark.parametrize(("what", "variable"), [("Postgres", DATABASE_URL), ("RabbitMQ", BROKER_URL)])
def test_a_missing_server_is_one_sentence_that_names_its_variable(
    tmp_path: Path, postgres_server: str, rabbitmq_server: str, what: str, variable: str
) -> None:
    scheme = "postgresql://postgres" if what == "Postgres" else "amqp://guest:guest"
    servers = {DATABASE_URL: postgres_server, BROKER_URL: rabbitmq_server, variable: f"{scheme}@127.0.0.1:9/none"}
    done = chaos(["-m", "chaos"], "--logs", str(tmp_path), "blips", **servers)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"chaos: {what} does not answer (")
    assert done.stderr.endswith(f"set {variable} to a server\n")
