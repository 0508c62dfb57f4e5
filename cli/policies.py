"""`trim policies`: the policies of a service and their versions."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.output import print_json, print_table
from cli.policy_names import AnyPolicy, PolicyName, PolicyOnly, VersionedPolicy, find_defaults, find_version
from cli.progress import note
from cli.service import AsJson, Limit, Server
from shared.policies.artefact import Artefact
from shared.policies.policy import FittedPolicy
from shared.policies.registry import POLICIES, check_artefact
from stack.artefact_files import read_files, write_artefact
from stack.client import Api

app = typer.Typer(help="Policies of a service, and their versions.", no_args_is_help=True)

Into = Annotated[Path, typer.Option("--into", metavar="FOLDER", file_okay=False, help="Folder to write to.")]


@app.callback()
def policies() -> None:
    """Policies of a service, and their versions."""


@app.command("list")
def list_policies(*, server: Server, as_json: AsJson = False) -> None:
    """List the policies that a submission can name, with their default versions."""
    with server as api:
        found = [each | {"default_versions": _default_numbers(api, each)} for each in api.get("/v1/policies")]
    if as_json:
        print_json(found)
        return
    rows = [
        (each["name"], " ".join(f"@{number}" for number in each["default_versions"]), each["description"])
        for each in found
    ]
    print_table(("policy", "default", "description"), rows)


@app.command()
def show(policy: AnyPolicy, *, server: Server, as_json: AsJson = False) -> None:
    """Show a version of a policy: its models, and data, settings, metrics and command of its fit.

    A policy without versions is shown with its parameters.
    """
    with server as api:
        plain = [each for each in api.get("/v1/policies") if each["name"] == policy.name and not each["has_versions"]]
        found = plain[0] if plain else find_version(api, policy)
    if as_json:
        print_json(found)
    else:
        print_table(("field", "value"), list(_parameters(found) if plain else _flat(found)))


@app.command()
def versions(policy: PolicyOnly, *, server: Server, limit: Limit = 20, as_json: AsJson = False) -> None:
    """List the versions of a policy, newest first."""
    with server as api:
        found = list(api.items(policy.path, count=limit))
    if as_json:
        print_json(found)
        return
    rows = [
        (f"{each['policy']}@{each['version']}", _state(each), *each["models"].values(), each["registered_at"])
        for each in found
    ]
    print_table(("version", "state", "small model", "large model", "PRM", "registered"), rows)


@app.command("default")
def make_default(policy: VersionedPolicy, *, server: Server) -> None:
    """Make a version the default for its models."""
    with server as api:
        api.post(f"{policy.path}/{policy.version}/default")
    note(f"{policy} is the default for its models.")


@app.command()
def retire(policy: VersionedPolicy, *, server: Server) -> None:
    """Withdraw a version from new submissions, permanently. Problems that have it keep it."""
    with server as api:
        api.post(f"{policy.path}/{policy.version}/retire")
    note(f"{policy} is retired.")


@app.command("export")
def export_version(policy: AnyPolicy, *, server: Server, into: Into = Path()) -> None:
    """Write a version to two files, NAME@VERSION.json and NAME@VERSION.npz; prints the path of the first."""
    with server as api:
        version = find_version(api, policy)["version"]
        artefact, arrays = fetch(api, policy.name, version)
    path = into / f"{policy.name}@{version}.json"
    write_artefact(artefact.encode()[0], arrays, path)
    print(path)


@app.command("import")
def import_version(
    card: Annotated[Path, typer.Argument(metavar="FILE.json", help="Card of the version; its .npz file is beside it.")],
    *,
    server: Server,
) -> None:
    """Register a version that was exported, fitted or trained; prints its name."""
    with server as api:
        print(register(api, card))


def fetch(api: Api, name: str, version: int) -> tuple[Artefact, bytes]:
    """Read the artefact of a version, and the file of its arrays as it was registered.

    Raises:
        ApiRefused: The policy has no such version.
        BadArtefact: What arrived is damaged.
    """
    exported = api.get(f"/v1/policies/{name}/versions/{version}/artefact")
    arrays = base64.b64decode(exported["arrays"])
    return Artefact.read(json.dumps(exported["card"]), arrays), arrays


def check_source(policy: PolicyName, file: Path | None) -> None:
    """Check that a command names at most one artefact, and none for a policy that decides without.

    Raises:
        BadParameter: It names a version or a file in vain.
    """
    kind = POLICIES.get(policy.name)
    named = " and ".join(each for each in (policy.version and str(policy), file and "--artefact") if each)
    if named and kind is not None and not issubclass(kind, FittedPolicy):
        raise typer.BadParameter(f"{policy.name} is not fitted to models, so it has no versions; omit {named}.")
    if policy.version is not None and file is not None:
        raise typer.BadParameter(f"{named} name two artefacts; omit one of them.")


def register(api: Api, card: Path) -> str:
    """Check an artefact as the service will, register it, and return the name of its version.

    Raises:
        UnreadableFile: A file is missing.
        BadArtefact: The artefact is damaged, or no policy can decide with it.
        ApiRefused: The service refused it.
    """
    encoded, arrays = read_files(card)
    artefact = Artefact.read(encoded, arrays)
    name = artefact.card.policy
    check_artefact(name, artefact)
    body = {"card": json.loads(encoded), "arrays": base64.b64encode(arrays).decode()}
    return f"{name}@{api.post(f'/v1/policies/{name}/versions', body)['version']}"


def _default_numbers(api: Api, policy: Mapping[str, Any]) -> list[int]:
    return [each["version"] for each in find_defaults(api, policy["name"])] if policy["has_versions"] else []


def _state(version: Mapping[str, Any]) -> str:
    if version["retired_at"]:
        return "retired"
    return "default" if version["is_default"] else ""


def _parameters(policy: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a policy decides, and its parameters."""
    yield "policy", policy["name"]
    yield "description", policy["description"]
    for name, described in policy["parameters"].get("properties", {}).items():
        yield (
            f"parameters.{name}",
            f"{described.get('description', '')} Default: {json.dumps(described.get('default'))}.",
        )


def _flat(version: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the fields of a version, those of its card by their paths."""
    card = version["card"]
    yield "version", f"{version['policy']}@{version['version']}"
    if state := _state(version):
        yield "state", state
    yield "registered", version["registered_at"]
    for part in ("models", "data", "settings", "metrics"):
        for name, value in sorted(card[part].items()):
            yield f"{part}.{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    yield "command", card["command"]
    yield "created", card["created_at"]
    yield "digest", version["digest"]
