"""How commands reach the service."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from cli.credentials import read_key
from stack.client import Api

DEFAULT_SERVER: Final = "http://127.0.0.1:8080"

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Limit = Annotated[int, typer.Option("-n", min=1, help="Maximum number of rows.")]


def _api(address: str) -> Api:
    try:
        return Api(address, key=read_key())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


Server = Annotated[
    Api,
    typer.Option(
        "--server",
        envvar="TRIM_SERVER",
        parser=_api,
        metavar="URL",
        help=f"Address of the service's API; {DEFAULT_SERVER} by default.",
        default_factory=lambda: DEFAULT_SERVER,
        show_default=False,
    ),
]
"""Option of every command that talks to the service; a command closes the client."""
