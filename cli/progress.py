"""Progress of long commands and their notes, on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

console = Console(stderr=True)

LINE_EVERY_S: Final = 15.0
"""Seconds between two lines where standard error is a file."""

Move = Callable[[int, int], object]
"""Shows how many have ended, of how many; 0 for an unknown number."""

Show = Callable[[str], Move]
"""Begins a part of a command, such as `solutions`."""


def note(text: str) -> None:
    """Print a line on standard error as it is: file names and ids may look like markup."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


@contextmanager
def showing_progress() -> Iterator[Show]:
    """Show progress for the duration of the block: bars on a terminal, otherwise a line now and then."""
    if not console.is_terminal:
        yield _Lines().begin
        return
    title = TextColumn("{task.description}", markup=False)
    columns = (title, BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:

        def show(label: str) -> Move:
            bar = bars.add_task(label, total=None)
            return lambda done, count: bars.update(bar, completed=done, total=count or None)

        yield show


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


class _Lines:
    """Prints a line at most every `LINE_EVERY_S`, whatever part it is of."""

    def __init__(self) -> None:
        self._printed = time.monotonic()

    def begin(self, label: str) -> Move:
        """Begin a part. What had ended before its first call is not part of the rate."""
        first: tuple[int, float] | None = None

        def move(done: int, count: int) -> None:
            nonlocal first
            now = time.monotonic()
            first = first or (done, now)
            if now - self._printed >= LINE_EVERY_S:
                self._printed = now
                note(_line(label, done, count, ended=done - first[0], elapsed_s=now - first[1]))

        return move


def _line(label: str, done: int, count: int, *, ended: int, elapsed_s: float) -> str:
    line = f"{label}: {done} of {count}" if count else f"{label}: {done}"
    if not ended or not elapsed_s:
        return line
    left = f", {timedelta(seconds=round((count - done) * elapsed_s / ended))} left" if count else ""
    return f"{line}, {ended / elapsed_s:.1f}/s{left}"
