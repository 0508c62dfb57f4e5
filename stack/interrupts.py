"""Orderly stops: the first Ctrl-C, SIGTERM or hang-up unwinds the program, later ones are ignored."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

EXIT_STOPPED = 130
"""Exit status after Ctrl-C, by the convention of shells."""


def interrupt_once(_number: int, _frame: object) -> NoReturn:
    """Raise `KeyboardInterrupt` for the first signal; a second Ctrl-C does not interrupt the clean-up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def unwind_on_signals() -> None:
    """Unwind on Ctrl-C, SIGTERM and hang-up, except for signals that the process ignores already (as `nohup` sets)."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt_once)


@contextmanager
def reporting_interrupts(program: str) -> Iterator[None]:
    """Unwind the block on Ctrl-C and exit with one sentence."""
    unwind_on_signals()
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: Stopped before the end; nothing is left behind.\n")
        sys.exit(EXIT_STOPPED)
