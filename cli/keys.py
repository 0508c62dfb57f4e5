"""`trim keys`: the keys of a tenant."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

import typer

from cli.output import print_json, print_table
from cli.progress import note
from cli.service import AsJson, Limit, Server
from shared.domain.scopes import Scope

_DAY_S: Final = 86_400

app = typer.Typer(help="Keys of a service's API.", no_args_is_help=True)

KeyId = Annotated[UUID, typer.Argument(metavar="ID", help="Id of the key, as `trim keys list` shows it.")]


@app.callback()
def keys() -> None:
    """Keys of a service's API."""


@app.command("list")
def list_keys(*, server: Server, limit: Limit = 50, as_json: AsJson = False) -> None:
    """List the keys of the tenant, newest first."""
    with server as api:
        found = list(api.items("/v1/keys", count=limit))
    if as_json:
        print_json(found)
        return
    rows = [
        (each["id"], each["prefix"], each["name"], " ".join(each["scopes"]), _state(each), each["last_used_at"] or "")
        for each in found
    ]
    print_table(("id", "prefix", "name", "scopes", "state", "last used"), rows)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the key, for people.")],
    *,
    server: Server,
    scope: Annotated[list[Scope], typer.Option("--scope", help="What the key allows; repeatable.")],
    expires_in_days: Annotated[
        float | None, typer.Option(min=0, help="Days until the key expires; by default it does not.")
    ] = None,
    tenant: Annotated[
        UUID | None, typer.Option(metavar="ID", help="Id of another tenant; only with a key of the default tenant.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a key, and print it. It cannot be read again."""
    path = "/v1/keys" if tenant is None else f"/v1/tenants/{tenant}/keys"
    body: dict[str, Any] = {"name": name, "scopes": [each.value for each in scope]}
    if expires_in_days is not None:
        body["expires_in_s"] = expires_in_days * _DAY_S
    with server as api:
        _print_new(api.post(path, body), as_json=as_json)


@app.command()
def rotate(
    key: KeyId,
    *,
    server: Server,
    overlap_s: Annotated[
        float, typer.Option(min=0, help="Seconds for which the old key remains valid beside the new one.")
    ] = _DAY_S,
    as_json: AsJson = False,
) -> None:
    """Create a key in place of another one, and print it. The old one ends after the overlap."""
    with server as api:
        _print_new(api.post(f"/v1/keys/{key}/rotate", {"overlap_s": overlap_s}), as_json=as_json)


@app.command()
def revoke(key: KeyId, *, server: Server) -> None:
    """Revoke a key; it is refused within seconds."""
    with server as api:
        revoked = api.post(f"/v1/keys/{key}/revoke")
    note(f"{revoked['name']} ({revoked['prefix']}) is revoked.")


def _print_new(made: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    print(made["key"])
    note(f"This is the key {made['name']} with the id {made['id']}. It cannot be read again.")


def _state(key: Mapping[str, Any]) -> str:
    if key["revoked_at"]:
        return "revoked"
    if key["expires_at"] is None:
        return "valid"
    expires_at = datetime.fromisoformat(key["expires_at"])
    return "expired" if expires_at <= datetime.now(UTC) else f"valid until {expires_at:%Y-%m-%d %H:%M} UTC"
