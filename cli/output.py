"""How commands print: data on standard output, progress on standard error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

progress = Console(stderr=True)
"""Console for progress and notes."""


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings. Columns are as wide as their text where the output is not a terminal."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 1000)
    console.print(table)


@contextmanager
def showing_progress() -> Iterator[Callable[[str], Callable[[int, int], object]]]:
    """Show progress bars.

    What the block gets begins one with a label, and returns what moves it: done of count, or of 0 for an unknown count.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=progress) as bars:

        def show(label: str) -> Callable[[int, int], object]:
            line = bars.add_task(label, total=None)
            return lambda done, count: bars.update(line, completed=done, total=count or None)

        yield show
