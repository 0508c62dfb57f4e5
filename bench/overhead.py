"""Measures what the service adds to its models: all roles as processes, a scripted engine without delay.

    python -m bench.overhead

TRIM_DATABASE_URL and TRIM_BROKER_URL name the servers; without them, the standard ports on this machine are used.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import psycopg
from rich.console import Console
from rich.table import Table

from bench import plain
from services.generator.writing import Writing
from services.prm.scoring import score
from shared.bus.connection import connect
from shared.domain.commands import next_commands
from shared.domain.state import ProblemAdmitted, new_state
from shared.domain.transitions import apply
from shared.domain.values import Options, Role, Status
from shared.engines.port import Cancellation
from shared.engines.scripted import Script, ScriptedGenerator, ScriptedScorer
from shared.messages import GenerateSteps, Message, ScoreSteps
from shared.policies.threshold import Threshold
from shared.settings import Settings
from shared.store.database import Database, wake_orchestrators
from shared.store.reasoning import options_values
from shared.store.tables import Problem
from stack.roles import Roles
from stack.scratch import scratch_database, scratch_prefix, scratch_queues

STEPS = plain.STEPS
SATURATED = 200
SEQUENTIAL = 10
WARM_UP = 20
TIMEOUT_S = 120.0

POLICY = Threshold(threshold=0.5)
SCRIPT = {
    "default": [{"small": f"Step {index} is written.", "score": 0.9} for index in range(STEPS - 1)]
    + [{"small": "The answer is \\boxed{7}.", "score": 0.9}]
}
ROLES = ("orchestrator", "small", "prm", "large")


def main() -> None:
    """Run everything and print it."""
    console = Console(width=100)
    server = os.environ.get("TRIM_DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
    broker = os.environ.get("TRIM_BROKER_URL", "amqp://guest:guest@127.0.0.1:5672//")
    with scratch_database(server) as database_url, tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "script.json"
        script.write_text(json.dumps(SCRIPT))
        environment = {
            "TRIM_DATABASE_URL": database_url,
            "TRIM_BROKER_URL": broker,
            "TRIM_QUEUE_PREFIX": scratch_prefix(),
            "TRIM_ENGINE": "scripted",
            "TRIM_SCRIPT": str(script),
            "TRIM_WINDOW": str(SATURATED),
            "TRIM_LOG_LEVEL": "warning",
        }
        os.environ.update(environment)
        with scratch_queues(Settings()):
            ours = measure_service(Database(database_url), environment, Path(folder))
            theirs = measure_plain(database_url, environment)
    result = {**ours, **theirs, "ideal_steps_per_s": round(measure_ideal())}
    show(console, result)
    print(json.dumps(result))


# --- the service ------------------------------------------------------------------------------------------------------


def measure_service(database: Database, environment: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Measure the service: one problem at a time, then many at once without and with drafting ahead."""
    with Roles(environment, folder, roles=ROLES) as roles:
        solve(database, roles, count=WARM_UP, lookahead=0)
        each = [solve(database, roles, count=1, lookahead=0) for _ in range(SEQUENTIAL)]
        cpu_before, commits_before = cpu_seconds(roles), commits(database)
        saturated_s = solve(database, roles, count=SATURATED, lookahead=0)
        cpu_after, commits_after, messages = cpu_seconds(roles), commits(database), messages_per_step(database)
        ahead_s = solve(database, roles, count=SATURATED, lookahead=4)
    database.close()
    steps = SATURATED * STEPS
    return {
        "sequential_ms_per_step": round(statistics.median(each) * 1000 / STEPS, 2),
        "steps_per_s": round(steps / saturated_s),
        "steps_per_s_lookahead4": round(steps / ahead_s),
        "cpu_ms_per_step": {name: round((cpu_after[name] - cpu_before[name]) * 1000 / steps, 2) for name in cpu_after},
        "transactions_per_step": round((commits_after - commits_before) / steps, 2),
        "messages_per_step": round(messages, 2),
    }


def solve(database: Database, roles: Roles, *, count: int, lookahead: int) -> float:
    """Submit problems, wait until all are solved, and return the seconds from the first start to the last end."""
    ids = [uuid4() for _ in range(count)]
    options = Options(plan=POLICY.plan, lookahead=lookahead)
    with database.session() as session:
        session.add_all(_problem(each, options) for each in ids)
        wake_orchestrators(session)
    query = (
        "SELECT count(*) FILTER (WHERE status = 'succeeded'), extract(epoch FROM max(finished_at) - min(started_at)) "
        "FROM problems WHERE id = ANY(%s)"
    )
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        return _poll(lambda: connection.execute(query, [ids]).fetchone(), count, roles.check)


def _problem(problem_id: UUID, options: Options) -> Problem:
    return Problem(
        id=problem_id,
        question=f"What is problem {problem_id}?",
        policy=POLICY.name,
        policy_revision=POLICY.revision,
        policy_parameters=POLICY.model_dump(),
        options=options_values(options),
        pending=[],
    )


def _poll(read: Callable[[], Any], count: int, check: Callable[[], None]) -> float:
    until = time.monotonic() + TIMEOUT_S
    while time.monotonic() < until:
        check()
        done, seconds = read()
        if done == count:
            return float(seconds)
        time.sleep(0.05)
    sys.exit(f"Only {done} of {count} problems were solved in {TIMEOUT_S:.0f} s.")


def cpu_seconds(roles: Roles) -> dict[str, float]:
    """Read the CPU time of each role, and of the servers where they run on this machine."""
    seconds = {role: _cpu([psutil.Process(pid)]) for role, pid in roles.pids().items()}
    for name, process_name in (("postgres", "postgres"), ("rabbitmq", "beam.smp")):
        found = [each for each in psutil.process_iter(["name"]) if each.info["name"] == process_name]
        seconds[name] = _cpu(found)
    return seconds


def _cpu(processes: list[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def commits(database: Database) -> int:
    """Read how many transactions the database has committed."""
    with database.begin() as connection:
        count: int = connection.exec_driver_sql(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        ).scalar_one()
        return count


def messages_per_step(database: Database) -> float:
    """Count messages from what is booked, for problems without drafting ahead.

    Every call of a generator was one command, every call of the PRM one command and one event, and every large step
    one event more.
    """
    with database.begin() as connection:
        messages: Any = connection.exec_driver_sql(
            "SELECT (sum(small_calls + large_calls + 2 * prm_calls) "
            "+ (SELECT count(*) FROM steps WHERE author = 'large'))::float / (SELECT count(*) FROM steps) FROM problems"
        ).scalar_one()
        return float(messages)


# --- the plain design -------------------------------------------------------------------------------------------------


def measure_plain(database_url: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Measure the plain design the same way."""
    prefix = environment["TRIM_QUEUE_PREFIX"]
    app = plain.make_app(prefix)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(plain.TABLES.encode())
        numbers = iter(range(1_000_000))
        with plain_workers(environment) as check:

            def solve_plain(count: int) -> float:
                ids = [next(numbers) for _ in range(count)]
                connection.execute(
                    "INSERT INTO plain_problems (id, started_at) SELECT unnest(%s::int[]), clock_timestamp()", [ids]
                )
                for each in ids:
                    plain.send(app, prefix, "small", each, [])
                query = (
                    "SELECT count(finished_at), extract(epoch FROM max(finished_at) - min(started_at)) "
                    "FROM plain_problems WHERE id = ANY(%s)"
                )
                return _poll(lambda: connection.execute(query, [ids]).fetchone(), count, check)

            solve_plain(WARM_UP)
            each = [solve_plain(1) for _ in range(SEQUENTIAL)]
            saturated_s = solve_plain(SATURATED)
    with connect(Settings()) as broker:
        for queue in app.conf.task_queues:
            queue(broker.default_channel).delete()
        app.conf.task_queues[0].exchange(broker.default_channel).delete()
    return {
        "plain_sequential_ms_per_step": round(statistics.median(each) * 1000 / STEPS, 2),
        "plain_steps_per_s": round(SATURATED * STEPS / saturated_s),
    }


@contextmanager
def plain_workers(environment: Mapping[str, str]) -> Iterator[Callable[[], None]]:
    """Run the plain design's workers for as long as the block does; yields a check that they still run."""
    workers = [
        subprocess.Popen([sys.executable, "-m", "bench.plain", role], env={**os.environ, **environment})
        for role in ("small", "prm", "decide")
    ]

    def check() -> None:
        if any(worker.poll() is not None for worker in workers):
            sys.exit("A worker of the plain design ended.")

    try:
        yield check
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait(30)


# --- the ideal --------------------------------------------------------------------------------------------------------


def measure_ideal() -> float:
    """Run the same state machine and the same work in a loop in memory; return steps per second."""
    script = Script.model_validate(SCRIPT)
    writers = {role: ScriptedGenerator(script, role) for role in Role}
    scorer, cancellation = ScriptedScorer(script), Cancellation()
    started = time.perf_counter()
    for index in range(SATURATED):
        state = new_state(problem_id=uuid4(), question=f"What is {index}?", options=Options(plan=POLICY.plan))
        state = apply(state, ProblemAdmitted(), decide=POLICY.decide, now=datetime.now(UTC))
        while state.status is Status.RUNNING:
            messages: list[Message] = []
            for command in next_commands(state):
                assert isinstance(command, GenerateSteps)
                writing = Writing(command, writers[command.role], worker="ideal", publish=messages.append)
                writing.run(cancellation, may_send=lambda: True)
            for message in messages:
                assert isinstance(message, ScoreSteps)
                event = score(message, cancellation, engine=scorer, worker="ideal")
                state = apply(state, event, decide=POLICY.decide, now=datetime.now(UTC))
            state = replace(state, decisions=())
    return SATURATED * STEPS / (time.perf_counter() - started)


def show(console: Console, result: Mapping[str, Any]) -> None:
    """Print the table."""
    table = Table(title=f"Overhead, {STEPS} steps a problem, {SATURATED} problems at once")
    for title in ("", "this service", "plain design", "ideal (in memory)"):
        table.add_column(title, justify="left" if not title else "right")
    table.add_row(
        "sequential, ms a step",
        str(result["sequential_ms_per_step"]),
        str(result["plain_sequential_ms_per_step"]),
        str(round(1000 / result["ideal_steps_per_s"], 2)),
    )
    table.add_row(
        "saturated, steps/s", str(result["steps_per_s"]), str(result["plain_steps_per_s"]),
        str(result["ideal_steps_per_s"]),
    )  # fmt: skip
    table.add_row("saturated, lookahead 4, steps/s", str(result["steps_per_s_lookahead4"]), "", "")
    table.add_row("messages a step", str(result["messages_per_step"]), "3", "")
    table.add_row("transactions a step", str(result["transactions_per_step"]), "1", "")
    for role, milliseconds in result["cpu_ms_per_step"].items():
        table.add_row(f"CPU ms a step, {role}", str(milliseconds), "", "")
    console.print(table)


if __name__ == "__main__":
    main()
