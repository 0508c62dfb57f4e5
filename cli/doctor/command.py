"""The command `trim doctor`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import typer
from rich.console import Console
from rich.text import Text

from cli.doctor import judging_servers, judging_service
from cli.doctor.findings import Finding, State
from cli.doctor.looking import LIMIT_S, look_at_all
from cli.doctor.reports import ask_api, ask_broker, ask_database
from cli.doctor.seen import Seen, free_space
from cli.embedded import with_broker, with_database
from cli.errors import EXIT_UNREACHABLE, NotInstalled
from cli.output import print_json
from cli.progress import console
from cli.service import AsJson, Server
from cli.terminal import hanging, printable
from shared.settings import Settings
from stack.client import Api
from stack.state import NoStack

EXIT_WRONG: Final = 1

JUDGES: Final[tuple[Callable[[Seen], Iterator[Finding]], ...]] = (
    judging_servers.judge_disk,
    judging_servers.judge_database,
    judging_servers.judge_api,
    judging_servers.judge_clocks,
    judging_servers.judge_broker,
    judging_service.judge_roles,
    judging_service.judge_queues,
    judging_service.judge_policies,
)
"""What is judged, in the order of dependence: each needs those before it, so the first fault is likely the cause."""

_STYLES: Final = {State.OK: "green", State.WRONG: "bold red", State.UNCHECKED: "dim"}
_WORD: Final = 11
_NAME: Final = 14


def doctor(*, server: Server, as_json: AsJson = False) -> None:
    """Find out what is wrong with the service, and what mends it.

    It asks the API, the database of TRIM_DATABASE_URL and the broker of TRIM_BROKER_URL, or the servers of `make serve`
    in this folder, for 8 seconds at most. The first fault is likely the cause of those after it. It exits with 0 if all
    is well, with 1 if something is wrong, and with 3 if nothing answers.
    """
    with server as api, console.status(f"Asking, for {LIMIT_S:.0f} s at most"):
        seen = look(api, Settings())
    findings = [finding for judge in JUDGES for finding in judge(seen)]
    is_well = all(each.state is not State.WRONG for each in findings)
    if as_json:
        print_json({"is_well": is_well, "findings": [each.value for each in findings]})
    else:
        _print(findings)
    if not seen.reached:
        raise typer.Exit(EXIT_UNREACHABLE)
    if not is_well:
        raise typer.Exit(EXIT_WRONG)


def look(api: Api, settings: Settings) -> Seen:
    """Ask every server at the same time."""
    found = _complete(settings)
    looks: dict[str, Callable[[], object]] = {"api": partial(ask_api, api)}
    if found.database_url is not None:
        looks["database"] = partial(ask_database, found)
    if found.broker_url is not None:
        looks["broker"] = partial(ask_broker, found)
    seen = look_at_all(looks, limit_s=LIMIT_S)
    return Seen(
        settings=found,
        server=api.address,
        is_embedded=settings.database_url is None and found.database_url is not None,
        api=seen["api"],  # type: ignore[arg-type] # each has the type of its function
        database=seen.get("database"),  # type: ignore[arg-type]
        broker=seen.get("broker"),  # type: ignore[arg-type]
        disk=free_space(),
    )


def _complete(settings: Settings) -> Settings:
    """Add the embedded servers, if they run."""
    if settings.database_url is not None:
        return settings
    try:
        return with_broker(with_database(settings))
    except (NoStack, NotInstalled):
        return settings


def _print(findings: list[Finding]) -> None:
    shown = Console(markup=False, highlight=False, soft_wrap=True)
    for each in findings:
        lines = [printable(each.sentence)] if each.sentence else []
        for fault in each.faults:
            lines += [printable(fault.sentence), f"-> {printable(fault.remedy)}"]
            lines += [f"   $ {fault.command}"] if fault.command else []
        indent = _WORD + _NAME
        text = Text(hanging(f"{each.state:{_WORD}}{each.name:{_NAME}}", lines[0], indent=indent))
        text.stylize(_STYLES[each.state], 0, len(each.state))
        shown.print(text)
        for line in lines[1:]:
            is_command = line.startswith("   $")
            further = hanging(" " * indent, line, indent=indent + 3 * line.startswith("->"))
            shown.print(Text(" " * indent + line if is_command else further))
    wrong = [each.name for each in findings if each.state is State.WRONG]
    if len(wrong) > 1:
        shown.print(f"{len(wrong)} things are wrong. Begin with {wrong[0]}: the others may follow from it.")
