"""Measures what the service adds to its models: all roles as processes, a scripted engine without delay.

    python -m bench.overhead

It also measures a plain design, and a loop in memory as the ideal. TRIM_DATABASE_URL and TRIM_BROKER_URL name the
servers; the default is the standard ports on this machine. The benchmark creates databases, queues and processes, and
deletes them at the end, also after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from rich.console import Console

from bench.arguments import positive
from bench.design import STEPS, Design, Timing
from bench.ideal import measure_ideal
from bench.plain import running_plain
from bench.report import show
from bench.servers import servers
from bench.service import Service, running_service
from shared.process import run
from shared.settings import Settings
from stack.interrupts import reporting_interrupts

WARM_UP = 20
"""Maximum number of problems that are solved before the measurement."""

LOOKAHEAD = 4


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description="Measure the service's overhead.")
    parser.add_argument("--problems", type=positive, default=200, help="problems in a saturated run (%(default)s)")
    parser.add_argument("--sequential", type=positive, default=15, help="sequential problems per turn (%(default)s)")
    parser.add_argument("--repeats", type=positive, default=3, help="turns, sequential and saturated (%(default)s)")
    arguments = parser.parse_args()
    with reporting_interrupts("bench-overhead"):
        run(partial(benchmark, **vars(arguments)), role="bench-overhead")


def benchmark(settings: Settings, *, problems: int, sequential: int, repeats: int) -> None:
    """Measure both designs and the ideal, and print the results."""
    with servers(settings) as (server_url, broker_url), ExitStack() as stack:
        service = stack.enter_context(running_service(server_url, broker_url, Service, window=problems))
        plain = stack.enter_context(running_plain(server_url, broker_url))
        result = measure(service, plain, problems=problems, sequential=sequential, repeats=repeats)
    result["ideal_steps_per_s"] = round(measure_ideal(problems))
    show(Console(width=100), result, problems=problems, repeats=repeats)
    print(json.dumps(result))


def measure(service: Design, plain: Design, *, problems: int, sequential: int, repeats: int) -> dict[str, Any]:
    """Measure both designs in turns, so that a load peak of the machine hits both.

    CPU time covers the saturated runs without lookahead. The processes of the other design are idle meanwhile.
    """
    warm_up = min(WARM_UP, problems)
    counts = service.warm_up_and_count(warm_up=warm_up, count=problems)
    plain_counts = plain.warm_up_and_count(warm_up=warm_up, count=problems)
    each, plain_each = [], []
    runs, plain_runs, ahead = [], [], []
    for _ in range(repeats):
        for _ in range(sequential):
            each.append(service.solve(1))
            plain_each.append(plain.solve(1))
        runs.append(service.time(problems))
        plain_runs.append(plain.time(problems))
        ahead.append(service.time(problems, lookahead=LOOKAHEAD))
    ratios = [ours.steps_per_s / theirs.steps_per_s for ours, theirs in zip(runs, plain_runs, strict=True)]
    return {
        "sequential_ms_per_step": round(statistics.median(each) * 1000 / STEPS, 2),
        **_spread("steps_per_s", [timing.steps_per_s for timing in runs]),
        **_spread("steps_per_s_lookahead4", [timing.steps_per_s for timing in ahead]),
        "plain_sequential_ms_per_step": round(statistics.median(plain_each) * 1000 / STEPS, 2),
        **_spread("plain_steps_per_s", [timing.steps_per_s for timing in plain_runs]),
        **_spread("ratio_to_plain", ratios, digits=2),
        "messages_per_step": round(counts.messages_per_step, 3),
        "transactions_per_step": round(counts.transactions_per_step, 3),
        "plain_messages_per_step": round(plain_counts.messages_per_step, 3),
        "plain_transactions_per_step": round(plain_counts.transactions_per_step, 3),
        "cpu_ms_per_step": _cpu_ms_per_step(runs),
        "plain_cpu_ms_per_step": _cpu_ms_per_step(plain_runs),
    }


def _spread(name: str, values: Sequence[float], *, digits: int | None = None) -> Mapping[str, Any]:
    """Return the median under a name, and the smallest and largest value as its range."""
    return {
        name: round(statistics.median(values), digits),
        f"{name}_range": [round(min(values), digits), round(max(values), digits)],
    }


def _cpu_ms_per_step(runs: Sequence[Timing]) -> Mapping[str, float]:
    steps = sum(timing.steps for timing in runs)
    return {name: round(sum(timing.cpu_s[name] for timing in runs) * 1000 / steps, 2) for name in runs[0].cpu_s}


if __name__ == "__main__":
    main()
