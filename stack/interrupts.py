"""Stopping a program in order: Ctrl-C, SIGTERM and the end of the terminal unwind it once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

EXIT_STOPPED = 130
"""Exit status after Ctrl-C, as a shell has it."""


def interrupt_once(_number: int, _frame: object) -> NoReturn:
    """Unwind, once: who presses Ctrl-C again waits for the clean-up all the same."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def unwind_on_signals() -> None:
    """Have Ctrl-C, SIGTERM and the end of the terminal unwind, but for what this process was told to ignore."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt_once)


@contextmanager
def stopped_in_a_sentence(program: str) -> Iterator[None]:
    """Have Ctrl-C unwind the block and end the program with one sentence."""
    unwind_on_signals()
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: Stopped before the end; nothing is left behind.\n")
        sys.exit(EXIT_STOPPED)
