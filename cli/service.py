"""How commands reach the service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

from cli.credentials import read_key
from stack.client import Api
from trim_client import Client
from trim_client.addresses import DEFAULT_SERVER

MAX_RETRIES: Final = 3
"""Retries of a request: a person waits for two seconds at most to learn that no service runs."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")]
Limit = Annotated[int, typer.Option("-n", min=1, help="Maximum number of rows.")]


def _api(address: str) -> Api:
    try:
        return Api(address, key=read_key())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _client(address: str) -> Client:
    try:
        return Client(address, api_key=read_key() or "", max_retries=MAX_RETRIES)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _address(parser: Callable[[str], object]) -> Any:
    return typer.Option(
        "--server",
        envvar="TRIM_SERVER",
        parser=parser,
        metavar="URL",
        help=f"Address of the service's API; {DEFAULT_SERVER} by default.",
        default_factory=lambda: DEFAULT_SERVER,
        show_default=False,
    )


Server = Annotated[Api, _address(_api)]
"""Option of commands that read plain JSON; a command closes what it gets."""

Service = Annotated[Client, _address(_client)]
"""Option of commands that use the Python client; a command closes it."""
