"""Progress of long commands on standard error, with rate and remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from cli.output import progress as console

LINE_EVERY_S: Final = 15.0
"""Seconds between two lines where standard error is a file."""

Show = Callable[[int], None]
"""Shows how many have ended."""


def note(text: str) -> None:
    """Print a line on standard error as it is: file names and ids may look like markup."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


@contextmanager
def showing_progress(title: str, total: int) -> Iterator[Show]:
    """Show progress for the duration of the block: a bar on a terminal, otherwise a line now and then.

    Args:
        title: What is counted, such as `problems`.
        total: The number at the end.
    """
    if not console.is_terminal:
        yield _Lines(title, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task(title, total=total)
        yield lambda done: bars.update(bar, completed=done)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


class _Lines:
    """Prints a line at most every `LINE_EVERY_S`. What had ended before the first call is not part of the rate."""

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total = title, total
        self._first: int | None = None
        self._began = self._printed = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first, self._began = done, now
        elapsed_s, ended = now - self._began, done - self._first
        if now - self._printed < LINE_EVERY_S or not ended:
            return
        self._printed = now
        left = timedelta(seconds=round((self._total - done) * elapsed_s / ended))
        note(f"{done} of {self._total} {self._title}, {ended / elapsed_s:.1f}/s, {left} left")
