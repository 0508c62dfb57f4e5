"""How commands print data on standard output."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from shared.errors import TrimError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of a file that takes no more."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and newline, and those that reorder text."""


GAP = 2
"""Spaces between two columns of a table."""


class OutputIncomplete(TrimError):
    """Standard output could not be written to its end; free space, or send it elsewhere."""

    code = "output_incomplete"


@contextmanager
def complete_output() -> Iterator[None]:
    """Write standard output to its end; characters that its encoding lacks are escaped.

    Raises:
        OutputIncomplete: It cannot be written, for example because the disk is full.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:  # The shell may have closed it.
                sys.stdout.flush()
    except OSError as error:
        if error.errno not in _FULL or error.filename is not None or sys.stdout is None:
            raise
        # What is still buffered would fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputIncomplete from error


def printable(text: str) -> str:
    """Return text with control characters as escapes: a model, or a file, may have written any for the terminal."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def print_line(value: Any) -> None:
    """Print a value as one line of JSON, at once."""
    print(json.dumps(value, ensure_ascii=not _has_every_character()), flush=True)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=not _has_every_character()))


def _has_every_character() -> bool:
    return sys.stdout is not None and sys.stdout.encoding.lower().startswith("utf")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, less: Sequence[str] = ()) -> None:
    """Print rows under headings. Columns are as wide as their text where the output is not a terminal.

    Args:
        columns: Headings.
        rows: Texts of each row.
        less: Headings of columns that a terminal leaves out if it is too narrow, the first of them first.
    """
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 1000)
    texts = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(columns, *texts, strict=True)]
    shown = list(range(len(columns)))
    for name in less:
        if sum(widths[each] for each in shown) + GAP * (len(shown) - 1) > console.width:
            shown.remove(columns.index(name))
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for each in shown:
        table.add_column(columns[each], overflow="fold")
    for row in texts:
        table.add_row(*(row[each] for each in shown))
    console.print(table)
