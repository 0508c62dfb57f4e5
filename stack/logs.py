"""Log files of the processes that the stack starts: closed to other users, and bounded in size."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO

from stack.state import StateUnusable

LOG_BYTES = 8 * 2**20
"""Size of a log from which its lines move to the older log, in place of those there."""

TAIL_BYTES = 16_384


def older(log: Path) -> Path:
    """Return the file that holds the lines before those of a log."""
    return log.with_name(f"{log.name}.1")


def open_log(log: Path) -> IO[bytes]:
    """Open a log to append to it, in a folder that other users cannot open.

    Raises:
        StateUnusable: The folder cannot be written.
    """
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        log.parent.chmod(0o700)
        bound(log)
        return log.open("ab")
    except OSError as error:
        raise StateUnusable(
            f"{log} cannot be written ({error.strerror}); free space, or run in another folder."
        ) from None


def bound(log: Path) -> None:
    """Move the lines of a log that has become large to the older log.

    Its process keeps the file open, so the file is copied and emptied; lines written in between are lost.
    """
    if log.exists() and log.stat().st_size > LOG_BYTES:
        with suppress(OSError):  # On a full disk, the older lines are lost: the log must not grow on.
            shutil.copyfile(log, older(log))
        os.truncate(log, 0)


def tail(log: Path, *, start: int = 0, lines: int = 5) -> str:
    """Return the last lines of a log, indented; those before `start`, in bytes, belong to an earlier process."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - TAIL_BYTES, start if start <= size else 0))
        found = file.read().decode(errors="replace").splitlines()
    return "".join(f"\n  {line}" for line in found[-lines:])
