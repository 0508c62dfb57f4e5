"""How commands print data on standard output."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from shared.errors import TrimError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of a file that takes no more."""


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


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    has_every_character = sys.stdout is not None and sys.stdout.encoding.lower().startswith("utf")
    print(json.dumps(value, indent=2, ensure_ascii=not has_every_character))


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
