"""Files that are written whole or not at all, also if the process is killed."""

from __future__ import annotations

import os
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
    draft = draft_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise CannotWrite(f"{path} cannot be written ({error.strerror}); free space, or name another folder.") from None
