"""Runs the whole service on one machine: `python -m stack run` or `python -m stack serve`."""

from __future__ import annotations

import argparse
import signal
import sys

from rich.console import Console

from shared.process import reporting_errors
from shared.settings import Settings
from stack.interrupts import EXIT_STOPPED, interrupt_once
from stack.running import running_stack, serve
from stack.sample import run_sample


def main() -> None:
    """Parse the command and run it."""
    parser = argparse.ArgumentParser(prog="python -m stack", description="The whole service on one machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="solve the bundled sample and print what it cost")
    commands.add_parser("serve", help="serve until Ctrl-C")
    arguments = parser.parse_args()
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
