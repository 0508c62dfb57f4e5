"""docs/command.md and docs/client.md name every command, option of the new ones, and method."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import typer.main
from typer.core import TyperGroup

from cli.app import app
from trim_client import Client

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = (DOCS / "command.md").read_text()


def commands(group: object, name: str = "trim") -> Iterator[str]:
    """Name all commands below a group."""
    if not isinstance(group, TyperGroup):
        yield name
        return
    for each, command in group.commands.items():
        yield from commands(command, f"{name} {each}")


def test_every_command_is_on_the_page_and_no_other() -> None:
    [table] = re.findall(r"## All commands\n(.*?)\n## ", f"{PAGE}\n## ", re.DOTALL)
    assert set(re.findall(r"`(trim [a-z -]+)`", table)) == set(commands(typer.main.get_command(app)))


def test_every_option_of_solve_and_submit_is_on_the_page() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    options = {
        option
        for name in ("solve", "submit")
        for parameter in group.commands[name].params
        for option in getattr(parameter, "opts", ())
        if option.startswith("--")
    }
    assert {"--policy", "--run"} <= options
    assert {option for option in options - {"--help"} if f"`{option}" not in PAGE and f" {option}" not in PAGE} == set()


def test_every_method_of_the_client_is_on_its_page() -> None:
    page = (DOCS / "client.md").read_text()
    with Client("http://127.0.0.1:1") as client:
        for noun in ("problems", "batches", "policies", "health"):
            [row] = re.findall(rf"^\| `client\.{noun}` \| (.+) \|$", page, re.MULTILINE)
            methods = {
                name for name, _ in inspect.getmembers(getattr(client, noun), inspect.ismethod) if name[0] != "_"
            }
            assert set(re.findall(r"`(\w+)`", row)) == methods
