"""How commands ask before they change something that cannot be undone."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli.progress import note

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def confirm(question: str, *, yes: bool) -> None:
    """Return if the user agrees.

    Raises:
        BadParameter: There is nobody to ask.
        Exit: The user refuses.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"{question} There is nobody to ask; add --yes.")
    if not typer.confirm(question, err=True):
        note("Nothing was changed.")
        raise typer.Exit(1)
