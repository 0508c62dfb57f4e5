"""The files of a policy's artefact: its card as JSON and, beside it, its arrays as `.npz`."""

from __future__ import annotations

from pathlib import Path

from shared.errors import PermanentError
from shared.policies.artefact import Artefact
from stack.whole_files import write_together


class UnreadableFile(PermanentError):
    """A file cannot be read; check its path."""

    code = "unreadable_file"


def read_files(card: Path) -> tuple[bytes, bytes]:
    """Read the card and the arrays beside it.

    Raises:
        UnreadableFile: One of them is missing or cannot be read.
    """
    try:
        return card.read_bytes(), card.with_suffix(".npz").read_bytes()
    except OSError as error:
        raise UnreadableFile(
            f"{error.filename} cannot be read ({error.strerror}); name the card of an artefact."
        ) from None


def read_artefact(card: Path) -> Artefact:
    """Read an artefact.

    Raises:
        UnreadableFile: One of its files is missing or cannot be read.
        BadArtefact: They are damaged, or do not belong together.
    """
    return Artefact.read(*read_files(card))


def write_artefact(card: bytes, arrays: bytes, path: Path) -> None:
    """Write an artefact: the card at a path and the arrays beside it.

    Raises:
        CannotWrite: A file cannot be written.
    """
    write_together({path.with_suffix(".npz"): arrays, path: card})
