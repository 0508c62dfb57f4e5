"""Entry point of the `trim` command. It is loaded at once; loading the commands takes long enough for a Ctrl-C."""

# ruff: noqa: PLC0415 - here Ctrl-C is caught

from __future__ import annotations

import sys


def main() -> None:
    """Load the commands, and run that of the arguments; Ctrl-C is one sentence on standard error."""
    try:
        from cli.app import main as run

        run()
    except KeyboardInterrupt:
        from stack.interrupts import EXIT_STOPPED

        sys.stderr.write("trim: Stopped.\n")
        sys.exit(EXIT_STOPPED)
