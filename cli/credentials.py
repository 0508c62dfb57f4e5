"""Which key the `trim` command sends to the service."""

from __future__ import annotations

import os
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Final

import typer

from shared.errors import PermanentError
from shared.setting_files import read_setting_file

VARIABLE: Final = "TRIM_API_KEY"
FILE_VARIABLE: Final = "TRIM_API_KEY_FILE"
OPTION: Final = "--key-file"

KeyFile = Annotated[
    Path | None,
    typer.Option(
        OPTION,
        metavar="FILE",
        help=f"File with the key of the service's API; {VARIABLE} or {FILE_VARIABLE} by default. A key is never an "
        "argument, which every user of the machine could read.",
    ),
]
"""Option before the name of a command."""

_key_file: ContextVar[Path | None] = ContextVar("key_file", default=None)


class UnusableKey(PermanentError):
    """The key of the service's API cannot be used; it begins with `trim_`."""

    code = "unusable_key"


def choose_key_file(path: Path | None) -> None:
    """Take the key from a file, rather than from the environment; `None` for the environment."""
    _key_file.set(path)


def read_key() -> str | None:
    """Read the key to send; `None` if none is named.

    Raises:
        UnusableKey: It is none, or is named twice.
        UnusableSettingFile: Its file cannot be read.
    """
    if (path := _key_file.get()) is not None:
        return _checked(read_setting_file(OPTION, str(path)), OPTION)
    text, file = os.environ.get(VARIABLE), os.environ.get(FILE_VARIABLE)
    if text and file:
        raise UnusableKey(f"{VARIABLE} and {FILE_VARIABLE} are both set; remove one of them.")
    if file:
        return _checked(read_setting_file(FILE_VARIABLE, file), FILE_VARIABLE)
    return _checked(text, VARIABLE) if text else None


def _checked(text: str, source: str) -> str:
    """Check that a key can be sent in a header. The error does not quote it."""
    key = text.strip()
    if not key or not all("!" <= character <= "~" for character in key):
        raise UnusableKey(f"{source} holds no key of the API; a key begins with trim_ and has no white space.")
    return key
