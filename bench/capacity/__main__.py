"""Prints what a number of small GPUs needs, measures the costs that this is computed from, or checks the model.

    python -m bench.capacity table --small-gpus 1 10 100 --step-tokens 60 --escalated 0.2
    python -m bench.capacity measure
    python -m bench.capacity check

`table` needs no server. The others use those of TRIM_DATABASE_URL and TRIM_BROKER_URL, by default the standard ports on
this machine. Use servers that nothing else uses: their CPU time and write-ahead log are read as a whole.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.arguments import positive
from bench.capacity import checking
from bench.capacity.costs import FILE, read, write
from bench.capacity.inputs import Engine, Engines, Workload
from bench.capacity.measuring import measure
from bench.capacity.model import Margins, max_events_per_s, plan
from bench.capacity.table import show_comparisons, show_drains, show_plans
from bench.servers import servers
from shared.process import reporting_errors, run
from shared.settings import Settings
from stack.interrupts import reporting_interrupts

PROGRAM = "capacity"


def main() -> None:
    """Run a command."""
    arguments = _parser().parse_args()
    command: Callable[..., None] = arguments.command
    options = {name: value for name, value in vars(arguments).items() if name != "command"}
    with reporting_interrupts(PROGRAM):
        if command is print_table:
            with reporting_errors(PROGRAM):
                print_table(**options)
        else:
            run(partial(command, **options), role=PROGRAM)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.capacity", description="Plan the capacity of a deployment.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    table = commands.add_parser("table", help="print what a number of small GPUs needs")
    _add_table_options(table)
    table.set_defaults(command=print_table)
    measuring = commands.add_parser("measure", help="measure what the service costs, and write it to a file")
    measuring.add_argument("--repeats", type=positive, default=3, help="runs of each load (%(default)s)")
    measuring.add_argument("--into", type=Path, default=FILE, help="file of the costs (%(default)s)")
    measuring.set_defaults(command=measure_costs)
    check = commands.add_parser("check", help="compare the model with the running service on scripted GPUs")
    check.add_argument("--costs", type=Path, default=FILE, help="file of the costs (%(default)s)")
    check.add_argument("--small-gpus", type=positive, nargs="*", default=[1, 2, 4], help="with one orchestrator")
    check.add_argument("--orchestrators", type=positive, nargs="*", default=[2, 4], help="with the most small GPUs")
    check.add_argument("--repeats", type=positive, default=3, help="observations of each (%(default)s)")
    check.set_defaults(command=check_model)
    return parser


def _add_table_options(parser: argparse.ArgumentParser) -> None:
    workload, engines = Workload(), Engines()
    parser.add_argument("--small-gpus", type=int, nargs="+", default=[1, 10, 100], help="numbers of GPUs (1 10 100)")
    described = {
        "step_tokens": "tokens of a step",
        "problem_steps": "steps of a solution",
        "question_tokens": "tokens of a question",
        "bytes_per_token": "bytes of a token",
        "escalated": "share of the decisions that escalate",
    }
    for name, meaning in described.items():
        _add(parser, name, getattr(workload, name), meaning)
    parser.add_argument("--lookahead", type=int, default=0, help="drafts ahead of a decision (%(default)s)")
    parser.add_argument(
        "--drafts-per-step", type=float, help="drafts for each accepted step (1 + ESCALATED * LOOKAHEAD, the most)"
    )
    for role, of in (("small", "decoded"), ("prm", "prefilled"), ("large", "decoded")):
        engine: Engine = getattr(engines, role)
        _add(parser, f"{role}_tokens_per_s", engine.tokens_per_s, f"{of} tokens per second of one GPU")
        _add(parser, f"{role}_concurrency", engine.concurrency, "sequences in flight at that speed")
    parser.add_argument("--no-prm-cache", action="store_true", help="the PRM computes the whole prefix each time")
    parser.add_argument("--headroom", type=float, default=0.3, help="share of each part that stays free (%(default)s)")
    parser.add_argument("--reads", type=float, default=2, help="reads of each problem through the api (%(default)s)")
    parser.add_argument("--costs", type=Path, default=FILE, help="file of the measured costs (%(default)s)")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON")


def _add(parser: argparse.ArgumentParser, name: str, default: float, meaning: str) -> None:
    parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=default, help=f"{meaning} (%(default)g)")


def print_table(
    *,
    small_gpus: list[int],
    no_prm_cache: bool,
    headroom: float,
    reads: float,
    costs: Path,
    as_json: bool,
    **numbers: Any,
) -> None:
    """Print the plans."""
    workload = Workload(**{each.name: numbers[each.name] for each in fields(Workload)})
    speeds = {
        role: Engine(tokens_per_s=numbers[f"{role}_tokens_per_s"], concurrency=numbers[f"{role}_concurrency"])
        for role in ("small", "prm", "large")
    }
    engines = Engines(**speeds, is_prm_cached=not no_prm_cache)
    margins, measured = Margins(headroom=headroom, reads=reads), read(costs)
    plans = [
        plan(each, workload=workload, engines=engines, costs=measured.costs, margins=margins) for each in small_gpus
    ]
    if as_json:
        print(json.dumps([asdict(each) for each in plans]))
        return
    show_plans(Console(width=120), plans, workload=workload, engines=engines)
    print(f"\nCPU costs: {measured.how['date']}, {measured.how['machine']}.")


def measure_costs(settings: Settings, *, repeats: int, into: Path) -> None:
    """Measure the costs, and write them to a file."""
    _forget_settings()
    with servers(settings) as (server_url, broker_url):
        measured = measure(
            server_url, broker_url, repeats=repeats, command=" ".join(["python -m bench.capacity", *sys.argv[1:]])
        )
    write(measured, into)
    print(json.dumps({**asdict(measured.costs), "fit_errors": measured.how["fit_errors"]}))


def check_model(
    settings: Settings, *, costs: Path, small_gpus: list[int], orchestrators: list[int], repeats: int
) -> None:
    """Compare the model with the service."""
    _forget_settings()
    measured = read(costs).costs
    console = Console(width=120)
    with servers(settings) as (server_url, broker_url):
        pairs = [(each, 1) for each in small_gpus] + [(max(small_gpus, default=1), each) for each in orchestrators]
        compared = []
        for gpus, number in pairs:
            compared.append(
                checking.compare(
                    server_url, broker_url, measured, small_gpus=gpus, orchestrators=number, repeats=repeats
                )
            )
            show_comparisons(console, compared[-1:])
        drained = {
            number: checking.drain(server_url, broker_url, orchestrators=number, repeats=repeats)
            for number in [1, *orchestrators]
        }
    show_drains(console, drained, max_events_per_s(checking.DRAIN, measured))


def _forget_settings() -> None:
    """Remove the settings from the environment: the roles must not inherit them."""
    for name in [name for name in os.environ if name.startswith("TRIM_")]:
        del os.environ[name]


if __name__ == "__main__":
    main()
