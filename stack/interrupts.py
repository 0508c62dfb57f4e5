"""Orderly stops: the first Ctrl-C, SIGTERM or hang-up unwinds the program; a second Ctrl-C shortens the clean-up."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NoReturn

STOPPING: Final = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
"""Signals that stop a program."""

EXIT_STOPPED = 130
"""Exit status after Ctrl-C, by the convention of shells."""

SAME_S = 0.5
"""Seconds after an interrupt within which Ctrl-C is the same one: `timeout` and `uv run` deliver it twice."""

POLL_S = 0.02


@dataclass(slots=True)
class _Stop:
    """What the signals of this process have asked for. Handlers may take no lock, so it is polled."""

    interrupted_at: float = 0.0
    is_urgent: bool = False


_STOP = _Stop()


def interrupt_once(_number: int, _frame: object) -> NoReturn:
    """Raise `KeyboardInterrupt` for the first signal; later ones do not interrupt the clean-up.

    A second Ctrl-C ends those waits of the clean-up that are not patient (`wait_until`).
    """
    _STOP.interrupted_at = time.monotonic()
    signal.signal(signal.SIGINT, _hurry)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _hurry(_number: int, _frame: object) -> None:
    _STOP.is_urgent = time.monotonic() > _STOP.interrupted_at + SAME_S


@contextmanager
def delaying_interrupts() -> Iterator[None]:
    """Deliver signals that stop the program at the end of the block; for the main thread.

    A mask would not do: another thread takes the signal then, and Python calls the handler in this one all the same.
    """
    received: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: received.append(number)) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])


def wait_until(is_done: Callable[[], bool], *, timeout_s: float, is_patient: bool = True) -> bool:
    """Wait for a condition during the clean-up, and return whether it holds.

    Args:
        is_done: The condition.
        timeout_s: Seconds after which the wait ends.
        is_patient: Whether a second Ctrl-C leaves the wait alone, and does not end it.
    """
    until = time.monotonic() + timeout_s
    while not (holds := is_done()) and (is_patient or not _STOP.is_urgent) and time.monotonic() < until:
        time.sleep(POLL_S)
    return holds


def unwind_on_signals() -> None:
    """Unwind on Ctrl-C, SIGTERM and hang-up, except for signals that the process ignores already (as `nohup` sets)."""
    for number in STOPPING:
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
