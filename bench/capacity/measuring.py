"""Measures what the service costs under scripted loads, and fits the costs of the model to it."""

from __future__ import annotations

import datetime as dt
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.capacity.costs import Measured
from bench.capacity.fitting import Asked, Sample, Stored, fit_costs, fit_errors
from bench.capacity.loads import Load, script
from bench.capacity.rig import Messages, Rig, Run, roles_of
from bench.service import running_service
from shared.bus.connection import connect
from shared.settings import Settings
from stack.client import Api
from stack.running import free_port

_LONG: Mapping[str, Any] = {"step_tokens": 60, "question_tokens": 150}

LOADS: Sequence[Load] = (
    Load(name="one at a time", in_flight=1, waves=20),
    Load(name="four at a time", in_flight=4, waves=12),
    Load(name="16 at a time", in_flight=16, waves=6),
    Load(name="short steps", in_flight=192),
    Load(name="long steps", in_flight=192, **_LONG),
    Load(name="many long steps", in_flight=64, steps=24, **_LONG),
    Load(name="escalated", in_flight=160, escalate_every=3, **_LONG),
    Load(name="lookahead 4", in_flight=192, lookahead=4, **_LONG),
    Load(name="paced, 24 in flight", in_flight=24, small_ms=600, prm_ms=60, variants=16, **_LONG),
    Load(name="paced, 64 in flight", in_flight=64, small_ms=600, prm_ms=60, variants=16, **_LONG),
    Load(name="paced, fast", in_flight=64, waves=2, small_ms=200, prm_ms=20, variants=16, **_LONG),
)

WARM_UP = Load(name="warm-up", in_flight=30)
WINDOW = 10_000
COUNTED = 24
"""Maximum number of problems in the run that counts messages."""

IDLE_S = 10.0
"""Seconds of each of the two observations of idle processes."""

REQUESTS = 100
"""Number of problems that are submitted, and read, one at a time."""


def measure(server_url: str, broker_url: str, *, repeats: int, command: str) -> Measured:
    """Run all loads in turns, so that a load peak of the machine hits all of them, and fit the costs.

    Args:
        server_url: Database of a server on which others can be created.
        broker_url: URL of RabbitMQ.
        repeats: Number of runs of each load.
        command: Command that measures, for the file.
    """
    port = free_port("127.0.0.1", 0)
    with running_service(
        server_url,
        broker_url,
        Rig,
        window=WINDOW,
        script=script((WARM_UP, *LOADS)),
        roles=roles_of(orchestrator=1, small=1, prm=1, large=1, api=1),
        environment={"TRIM_API_PORT": str(port), "TRIM_CONCURRENCY": "64"},
    ) as rig:
        rig.run(WARM_UP)
        idles = [rig.idle_cpu(IDLE_S)]
        messages = {load.name: rig.count_messages(load, min(COUNTED, load.in_flight)) for load in LOADS}
        stored = [_stored(rig, load) for load in LOADS[3:6]]
        runs = [{load.name: _shown(load, rig.run(load)) for load in LOADS} for _ in range(repeats)]
        idles.append(rig.idle_cpu(IDLE_S))
        idle = {name: min(each[name] for each in idles) for name in idles[0]}
        samples = [_sample(load, messages[load.name], [each[load.name] for each in runs], idle) for load in LOADS]
        connections = rig.connections()
        with Api(f"http://127.0.0.1:{port}") as api:
            asked = _ask(rig, api)
        versions = {"postgres": rig.read("SHOW server_version"), "rabbitmq": _broker_version(rig.settings)}
    costs = fit_costs(samples, stored, idle=idle, connections=connections, asked=asked)
    how = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "command": command,
        "machine": f"{_processor()}, {os.cpu_count()} cores shared by all processes",
        "python": platform.python_version(),
        **versions,
        "repeats": repeats,
        "cpu_spread": _spread(runs),
        "idle_cores": {name: round(value, 4) for name, value in idle.items()},
        "fit_errors": fit_errors(samples, costs),
        "loads": {sample.load.name: sample.describe() for sample in samples},
    }
    return Measured(costs=costs, how=how)


def _shown(load: Load, run: Run) -> Run:
    cpu = sum(run.cpu_s.values()) * 1000 / run.steps
    print(f"  {load.name}: {run.steps_per_s:,.0f} steps/s, {cpu:.2f} ms CPU per step", flush=True)
    return run


def _sample(load: Load, messages: Messages, runs: Sequence[Run], idle: Mapping[str, float]) -> Sample:
    """Take medians of the runs; the CPU time that idle processes use as well does not count."""

    def busy_ms(run: Run, name: str) -> float:
        return 1000 * max(0.0, run.cpu_s[name] - idle[name] * run.elapsed_s)

    def median(value: Callable[[Run], float]) -> float:
        return statistics.median(value(run) / run.steps for run in runs)

    return Sample(
        load=load,
        messages=messages,
        counted_steps=min(COUNTED, load.in_flight) * load.steps,
        cpu_ms={name: median(lambda run, name=name: busy_ms(run, name)) for name in runs[0].cpu_s},  # type: ignore[misc]
        steps_per_s=statistics.median(run.steps_per_s for run in runs),
        fastest_step_ms=min(run.fastest_s for run in runs) * 1000 / (load.in_flight * load.steps),
        transactions=median(lambda run: run.transactions),
        wal_bytes=median(lambda run: run.wal_bytes),
    )


def _stored(rig: Rig, load: Load) -> Stored:
    before = rig.table_bytes()
    rig.run(load)
    after = rig.table_bytes()
    return Stored(load, {name: (after[name][0] - before[name][0], after[name][1] - before[name][1]) for name in after})


def _ask(rig: Rig, api: Api) -> Asked:
    """Submit problems one at a time, then read them, and read the api's CPU time."""
    process = psutil.Process(rig.roles.pids()["api"])
    problem = {"question": WARM_UP.question(0), "policy": {"name": "threshold", "parameters": {"threshold": 0.5}}}
    api.wait_until_ready(rig.roles.check)

    def cpu_ms(act: Callable[[], Any]) -> float:
        before = sum(process.cpu_times()[:2])
        act()
        return float(sum(process.cpu_times()[:2]) - before) * 1000 / REQUESTS

    ids: list[str] = []
    submission_ms = cpu_ms(lambda: ids.extend(api.post("/v1/problems", problem)["id"] for _ in range(REQUESTS)))
    read_ms = cpu_ms(lambda: [api.get(f"/v1/problems/{each}") for each in ids])
    return Asked(submission_ms, read_ms)


def _broker_version(settings: Settings) -> str:
    connection = connect(settings)
    try:
        return str(connection.connection.server_properties["version"])
    finally:
        connection.release()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _spread(runs: Sequence[Mapping[str, Run]]) -> dict[str, list[float]]:
    """Return the smallest and largest CPU milliseconds per step of each load's runs: how noisy the machine was."""
    ms = {name: [1000 * sum(each[name].cpu_s.values()) / each[name].steps for each in runs] for name in runs[0]}
    return {name: [round(min(values), 3), round(max(values), 3)] for name, values in ms.items()}
