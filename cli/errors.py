"""Exit codes of the `trim` command: 0 done, 1 failed, 2 wrong usage, 3 the service cannot be reached."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from shared import process
from stack.client import Unreachable

EXIT_FAILED: Final = process.EXIT_BROKEN
EXIT_USAGE: Final = process.EXIT_USAGE
EXIT_UNREACHABLE: Final = 3
EXIT_INTERRUPTED: Final = 128 + signal.SIGINT


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Report errors of the service and its files in one sentence, and exit. Other exceptions pass through."""
    try:
        with process.reporting_errors("trim"):
            try:
                yield
            except Unreachable as error:
                sys.stderr.write(f"trim: {error}\n")
                sys.exit(EXIT_UNREACHABLE)
    except KeyboardInterrupt:
        sys.stderr.write("trim: stopped.\n")
        sys.exit(EXIT_INTERRUPTED)
