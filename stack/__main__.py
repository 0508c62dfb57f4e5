"""Runs the whole service on one machine: `python -m stack run`, `serve` or `psql`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from rich.console import Console

from shared.process import parser, reporting_errors
from shared.settings import Settings
from stack.interrupts import EXIT_STOPPED, unwind_on_signals
from stack.psql import EXIT_UNREACHABLE, become_psql
from stack.running import running_stack, serve
from stack.sample import run_sample
from stack.state import NoStack


def main() -> None:
    """Parse the command and run it."""
    program = parser(
        "stack",
        "Run the whole service on one machine, with its data in .state. It needs no settings. TRIM_DATABASE_URL and "
        "TRIM_BROKER_URL name servers to use in place of the embedded Postgres.",
    )
    commands = program.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="solve the bundled sample and print what it cost")
    commands.add_parser("serve", help="serve until Ctrl-C")
    commands.add_parser("psql", help="connect psql to the embedded Postgres of the stack that runs; takes its options")
    # The options of psql are not those of argparse, which would take them apart.
    is_psql = sys.argv[1:2] == ["psql"]
    command = program.parse_args(sys.argv[1:2] if is_psql else None).command
    with reporting_errors("stack"):
        if is_psql:
            _psql(sys.argv[2:])
        unwind_on_signals()
        _run(command)


def _psql(arguments: Sequence[str]) -> NoReturn:
    try:
        become_psql(arguments)
    except NoStack as error:
        sys.stderr.write(f"stack: {error}\n")
        sys.exit(EXIT_UNREACHABLE)


def _tell(sentence: str) -> None:
    try:
        sys.stdout.write(f"{sentence}\n")
        sys.stdout.flush()
    except OSError:  # The terminal was closed, which must not keep anything from being stopped.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(command: str) -> None:
    is_run = command == "run"
    try:
        with running_stack(Settings(), _tell, any_port=is_run, problems_may_wait=not is_run) as (api, roles):
            if is_run:
                run_sample(api, roles, Console())
            else:
                serve(api, roles, _tell)
    except KeyboardInterrupt:
        _tell("Stopped.")
        if is_run:
            sys.exit(EXIT_STOPPED)


if __name__ == "__main__":
    main()
