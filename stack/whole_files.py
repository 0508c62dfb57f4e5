"""Files that are written whole or not at all, also if the process is killed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from shared.errors import PermanentError


class CannotWrite(PermanentError):
    """A file cannot be written; free space, or name another folder."""

    code = "cannot_write"


def draft_of(path: Path) -> Path:
    """Return where a file is written before it gets its name; a process that is killed may leave it."""
    return path.with_name(f"{path.name}.part")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, and its folder if that is missing.

    Raises:
        CannotWrite: The file cannot be written; an older one keeps its content.
    """
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files, and their folders if they are missing. All are complete before the first has its name.

    Raises:
        CannotWrite: A file cannot be written; older ones keep their content.
    """
    path: Path
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with draft_of(path).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path in contents:
            draft_of(path).replace(path)
    except OSError as error:
        for each in contents:
            with suppress(OSError):
                draft_of(each).unlink(missing_ok=True)
        raise CannotWrite(f"{path} cannot be written ({error.strerror}); free space, or name another folder.") from None
