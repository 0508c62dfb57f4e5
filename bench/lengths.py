"""Measures what a step costs in long and in short solutions: message bytes, and the CPU time of each process.

    python -m bench.lengths

Every role runs as a process with a scripted engine without delay. TRIM_DATABASE_URL and TRIM_BROKER_URL name the
servers; the default is the standard ports on this machine. The benchmark deletes what it creates.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.arguments import positive
from bench.counters import read_when_still
from bench.servers import servers
from bench.service import POLICY, Service, make_problem, running_service
from bench.tap import Tap
from shared.domain.options import Limits, Options
from shared.process import run
from shared.settings import Settings
from stack.interrupts import reporting_interrupts
from stack.roles import ROLES

CHARACTERS = 500
"""Characters of each step."""

ESCALATED = 5
"""One step in this many goes to the large model."""

TAPPED = 10
"""Problems whose messages are counted."""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m bench.lengths", description="Measure the cost of a step.")
    parser.add_argument("--lengths", type=positive, nargs="+", default=[20, 200], help="steps of a solution (20 200)")
    parser.add_argument("--problems", type=positive, default=40, help="problems at once (%(default)s)")
    parser.add_argument("--workers", type=positive, default=2, help="workers of each role (%(default)s)")
    parser.add_argument("--repeats", type=positive, default=2, help="measurements, in turns (%(default)s)")
    arguments = parser.parse_args()
    with reporting_interrupts("bench-lengths"):
        run(partial(benchmark, **vars(arguments)), role="bench-lengths")


def benchmark(settings: Settings, *, lengths: Sequence[int], problems: int, workers: int, repeats: int) -> None:
    """Measure each length in turn, and print a table and JSON."""
    measured: dict[int, list[dict[str, float]]] = {length: [] for length in lengths}
    with servers(settings) as (server_url, broker_url):
        for _ in range(repeats):
            for length in lengths:
                measured[length].append(
                    measure(
                        server_url,
                        broker_url,
                        length=length,
                        rounds=max(lengths) // length,
                        problems=problems,
                        workers=workers,
                    )
                )
    result = {length: {name: _mean(runs, name) for name in runs[0]} for length, runs in measured.items()}
    _show(Console(width=100), result, problems=problems, workers=workers)
    print(json.dumps({"problems": problems, "workers": workers, "per_step": result}))


def measure(
    server_url: str, broker_url: str, *, length: int, rounds: int, problems: int, workers: int
) -> dict[str, float]:
    """Solve problems of one length, some at once and in several rounds; return what each step cost."""

    class Lengthy(Service):
        """The service with solutions of this length."""

        def submit(self, count: int, *, lookahead: int) -> None:
            limits = Limits(max_steps=length, max_tokens=1_000_000)
            options = Options(plan=POLICY.plan, lookahead=lookahead, limits=limits)
            names = [self.read("SELECT gen_random_uuid()") for _ in range(count)]
            self.insert([make_problem(each, options, question=f"What is problem {each}?") for each in names])

    Lengthy.steps = length
    roles = _roles(workers)
    with running_service(
        server_url, broker_url, Lengthy, window=problems, script=_script(length), roles=roles
    ) as service:
        service.solve(problems)
        timings = [service.time(problems) for _ in range(rounds)]
        with Tap(service.settings, service.bindings()) as tap:
            service.solve(TAPPED)
            read_when_still(tap.count)
            bodies = tap.drain()
    steps = sum(each.steps for each in timings)
    cpu_ms = {name: sum(each.cpu_s[name] for each in timings) * 1000 / steps for name in timings[0].cpu_s}
    return {
        "message_bytes": sum(map(len, bodies)) / (TAPPED * length),
        "messages": len(bodies) / (TAPPED * length),
        **_by_role(cpu_ms),
        "steps_per_s": steps / sum(each.seconds for each in timings),
    }


def _script(length: int) -> dict[str, Any]:
    steps = [
        {
            "small": f"Step {index} is drafted: ".ljust(CHARACTERS - 1, "x") + ".",
            "large": f"Step {index} is written again: ".ljust(CHARACTERS - 1, "y") + ".",
            "score": 0.1 if index % ESCALATED == ESCALATED - 1 else 0.9,
        }
        for index in range(length - 1)
    ]
    return {"default": [*steps, {"small": "The answer is \\boxed{7}.", "score": 0.9}]}


def _roles(workers: int) -> Mapping[str, Sequence[str]]:
    many = {f"{role}-{number}": ROLES[role] for role in ("small", "prm", "large") for number in range(workers)}
    return {"orchestrator": ROLES["orchestrator"], **many}


def _by_role(cpu_ms: Mapping[str, float]) -> dict[str, float]:
    """Add up the processes of each role."""
    total: dict[str, float] = {}
    for name, value in cpu_ms.items():
        role = f"cpu_ms_{name.partition('-')[0]}"
        total[role] = total.get(role, 0.0) + value
    return total


def _mean(runs: Sequence[Mapping[str, float]], name: str) -> float:
    return round(sum(each[name] for each in runs) / len(runs), 3)


def _show(console: Console, result: Mapping[int, Mapping[str, float]], *, problems: int, workers: int) -> None:
    first, *others = result
    table = Table(
        title=f"Cost of a step of {CHARACTERS} characters, {problems} problems at once, workers of a role: {workers}"
    )
    table.add_column("")
    for length in result:
        table.add_column(f"{length} steps", justify="right")
    for length in others:
        table.add_column(f"{length} : {first}", justify="right")
    for name, value in result[first].items():
        ratios = [f"{result[length][name] / value:.2f}" if value else "" for length in others]
        table.add_row(name, *(f"{result[length][name]:,.2f}" for length in result), *ratios)
    console.print(table)


if __name__ == "__main__":
    main()
