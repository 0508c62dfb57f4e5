"""`trim policies`: the policies of a service and their versions."""

from __future__ import annotations

import typer

from cli.output import print_json, print_table
from cli.service import AsJson, Server

app = typer.Typer(help="Policies of a service, and their versions.", no_args_is_help=True)


@app.callback()
def policies() -> None:
    """Policies of a service, and their versions."""


@app.command("list")
def list_policies(*, server: Server, as_json: AsJson = False) -> None:
    """List the policies that a submission can name."""
    with server as api:
        found = api.get("/v1/policies")
    if as_json:
        print_json(found)
        return
    print_table(("policy", "description"), [(each["name"], each["description"]) for each in found])
