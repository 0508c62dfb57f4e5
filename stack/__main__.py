"""Runs the whole service on one machine: `python -m stack run` or `python -m stack serve`."""

from __future__ import annotations

import signal
import sys

from rich.console import Console

from shared.process import parser, reporting_errors
from shared.settings import Settings
from stack.interrupts import EXIT_STOPPED, interrupt_once
from stack.running import running_stack, serve
from stack.sample import run_sample


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
    arguments = program.parse_args()
    # SIGTERM unwinds like Ctrl-C, so that no child process survives.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt_once)
    console = Console()
    with reporting_errors("stack"):
        try:
            with running_stack(Settings(), console, any_port=arguments.command == "run") as (api, roles):
                if arguments.command == "run":
                    run_sample(api, roles, console)
                else:
                    serve(api, roles, console)
        except KeyboardInterrupt:
            console.print("Stopped.")
            if arguments.command == "run":
                sys.exit(EXIT_STOPPED)


if __name__ == "__main__":
    main()
