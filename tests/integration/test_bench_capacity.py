"""The readings that the model of the capacity is fitted to, on very small loads, and that pauses end with the run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.capacity.draining import DrainRig, paused
from bench.capacity.loads import Load, script
from bench.capacity.rig import ServersElsewhere, roles_of
from bench.service import running_service

ROOT = Path(__file__).resolve().parents[2]
NOBODY = "127.0.0.1:9"

PLAIN = Load(name="plain", in_flight=5, waves=2, steps=3, step_tokens=20, question_tokens=30)
ESCALATED = Load(name="escalated", in_flight=4, steps=5, escalate_every=2)
PACED = Load(name="paced", in_flight=200, steps=3, small_ms=500, prm_ms=5, variants=4)
WAITING = Load(name="waiting", in_flight=30, steps=2)

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def rig(postgres_server: str, rabbitmq_server: str) -> Iterator[DrainRig]:
    loads = script((PLAIN, ESCALATED, PACED, WAITING))
    roles = roles_of(orchestrator=2, small=1, prm=1, large=1)
    with running_service(postgres_server, rabbitmq_server, DrainRig, window=40, script=loads, roles=roles) as running:
        yield running


def test_a_run_reads_steps_transactions_and_the_cpu_time_of_roles(rig: DrainRig) -> None:
    run = rig.run(PLAIN)
    assert run.steps == 2 * 5 * 3
    assert 3 <= run.transactions <= run.steps
    assert 0 < run.fastest_s <= run.seconds <= run.elapsed_s
    assert run.wal_bytes > 0
    assert {"orchestrator", "small", "prm", "large"} <= set(run.cpu_s)
    assert all(value >= 0 for value in run.cpu_s.values())


def test_messages_are_counted_by_kind_with_their_texts(rig: DrainRig) -> None:
    messages = rig.count_messages(PLAIN, 4)
    assert messages.count == {"generate_steps": 12, "score_steps": 12, "steps_scored": 12}
    question, step = 150, len("step " * 19) - 1
    # The first two steps are plain words; the last one ends with a box.
    assert messages.text["generate_steps"] == 4 * (3 * question + (0 + 1 + 2) * step)
    assert messages.text["steps_scored"] == 4 * (3 * step + len(" \\boxed{7}"))
    assert all(messages.size[kind] > messages.text[kind] for kind in messages.count)
    escalated = rig.count_messages(ESCALATED, 1)
    assert escalated.count == {"generate_steps": 7, "score_steps": 5, "steps_scored": 5, "steps_generated": 2}


def test_orchestrators_apply_events_while_the_workers_are_paused(rig: DrainRig) -> None:
    run = rig.drain(WAITING)
    assert run.steps == 30
    assert 1 <= run.transactions <= 30
    assert "orchestrator" in run.cpu_s, "the clock of the system may be too coarse for its time in 30 steps"
    assert run.cpu_s["small"] == run.cpu_s["prm"] == 0
    assert rig.run(PLAIN).steps == 30, "the workers work again"


def test_rows_and_connections_are_those_of_the_service(rig: DrainRig) -> None:
    before = rig.table_bytes()
    rig.run(ESCALATED)
    added = {name: rows - before[name][0] for name, (rows, _) in rig.table_bytes().items()}
    assert (added["problems"], added["steps"], added["decisions"]) == (4, 20, 20)
    connections = rig.connections()
    assert 2 <= connections["orchestrator"]["database"] <= 11
    assert connections["small"]["database"] == 0
    assert connections["small"]["broker"] >= 2


def test_a_running_load_is_observed(rig: DrainRig) -> None:
    rig.start(PACED, warm_up_s=0.1)
    observed = rig.observe(0.2)  # Only 40 of its 200 problems fit into the window.
    assert observed.run.elapsed_s >= 0.2
    assert observed.waiting >= 0
    rig.drain(WAITING)  # It waits for the rest of the other load before.


def test_servers_on_another_machine_cannot_be_measured(rig: DrainRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.design.cpu_seconds", lambda *_, **__: {"orchestrator": 1.0, "postgres": 1.0})
    with pytest.raises(ServersElsewhere, match="must run on this machine"):
        rig.run(PLAIN)


def test_paused_processes_continue_after_an_error() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    def fail_while_paused() -> None:
        with paused([child.pid]):
            assert psutil.Process(child.pid).status() == psutil.STATUS_STOPPED
            raise ZeroDivisionError

    try:
        with pytest.raises(ZeroDivisionError):
            fail_while_paused()
        child.communicate(b"\n", timeout=30)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0


def test_an_unreachable_server_is_reported_in_one_sentence(rabbitmq_server: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.capacity", "measure"],
        cwd=ROOT,
        env={"TRIM_DATABASE_URL": f"postgresql://postgres@{NOBODY}/postgres", "TRIM_BROKER_URL": rabbitmq_server},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 1
    assert (done.stdout, done.stderr.count("\n")) == ("", 1), done.stderr
    assert "The database does not answer" in done.stderr
