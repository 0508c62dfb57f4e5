"""`trim check`: whether what must hold of every stored problem holds."""

# ruff: noqa: PLC0415 - the database's libraries are imported only where they are needed

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer
from pydantic import SecretStr

from cli.embedded import broker_on, with_database
from cli.errors import NotInstalled, reaching_servers, requiring
from cli.output import print_json
from cli.progress import note, showing_progress
from cli.service import AsJson
from cli.terminal import hanging
from shared.errors import PermanentError
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.store.checks import Scope
    from shared.store.verification import Detached, Finding

EXIT_BROKEN: Final = 1
_INDENT: Final = 8


class NoSuchProblem(PermanentError):
    """The database has no such problem; `GET /v1/problems` lists them."""

    code = "no_such_problem"


Since = Annotated[
    datetime | None,
    typer.Option(
        "--since",
        formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"],
        help="Only problems that were submitted since this time, in UTC unless it names another zone.",
    ),
]
OneProblem = Annotated[UUID | None, typer.Option("--problem", metavar="ID", help="Only this problem.")]


def check(
    *,
    since: Since = None,
    problem: OneProblem = None,
    all_ended: Annotated[bool, typer.Option("--all-ended", help="Fail as well if a problem has not ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check that nothing was lost or done twice in the record of the problems.

    It reads the database of TRIM_DATABASE_URL, or the embedded one of `make serve`, in one snapshot. It writes nothing,
    so the service may run. It exits with 1 if something does not hold.
    """
    if since is not None and problem is not None:
        raise typer.BadParameter("name --since or --problem, not both")
    from shared.store.checks import Scope

    scope = Scope(since=since and (since if since.tzinfo else since.replace(tzinfo=UTC)), problem=problem)
    with reaching_servers():
        named = Settings()
        settings = with_database(named)
        findings, detached = _examine(settings, scope)
        letters = None if scope.parameters else _count_letters(named, settings)
    if problem is not None and not next(each.counted for each in findings if each.unit == "problems"):
        raise NoSuchProblem(f"The database has no problem {problem}; `GET /v1/problems` lists those that it has.")
    broken = [each for each in findings if each.offenders and (each.name != "ended" or all_ended)]
    is_sound = not broken and not any((letters or {}).values())
    if as_json:
        print_json(_json(is_sound, findings, broken, detached, letters))
    else:
        _print(findings, broken, detached, letters)
    if not is_sound:
        raise typer.Exit(EXIT_BROKEN)


def _examine(settings: Settings, scope: Scope) -> tuple[list[Finding], list[Detached]]:
    """Run all checks in one snapshot of the database."""
    with requiring("store"):
        from shared.store import verification
        from shared.store.database import Database
    url = settings.require_database_url()
    with (
        closing(Database(url, statement_timeout_s=0)) as database,
        verification.snapshot(database) as connection,
        showing_progress() as begin,
    ):
        move = begin("checks")
        findings = [verification.count_open(connection, scope)]
        detached = verification.find_detached(connection, scope)
        for each in verification.verify(connection, detached, scope):
            findings.append(each)
            move(len(findings), verification.COUNT + 1)
    return findings, detached


def _count_letters(named: Settings, used: Settings) -> Mapping[str, int] | None:
    """Count the dead letters of the broker that the settings name, or of the embedded database; `None` without one."""
    if named.broker_url is None:
        if named.database_url is not None:
            return None
        used = used.model_copy(update={"broker_url": SecretStr(broker_on(used.require_database_url()))})
    try:
        with requiring("bus"):
            from shared.bus.dead_letters import count_dead_letters
    except NotInstalled as error:
        note(f"Dead letters are not counted. {error}")
        return None
    return count_dead_letters(used)


def _print(
    findings: Sequence[Finding],
    broken: Sequence[Finding],
    detached: Sequence[Detached],
    letters: Mapping[str, int] | None,
) -> None:
    for each in findings:
        if each in broken:
            _print_broken(each)
        elif each.offenders:
            _line("open", f"{each.offenders} of {each.counted} problems have not ended.")
        else:
            _line("ok", f"{each.sentence} ({each.counted} {each.unit})")
    filled = {name: count for name, count in (letters or {}).items() if count}
    if filled:
        _line("BROKEN", "No message is a dead letter.")
        _line("", f"Found {', '.join(f'{count} in {name}' for name, count in filled.items())}.")
        _line("", "Look: trim dead-letters list")
    elif letters is not None:
        _line("ok", "No message is a dead letter.")
    for part in detached:
        months = ", ".join(f"{month:%Y-%m}" for month in part.months)
        _line("note", f"{part.table} has no row of {months}, so these months count as detached and are left out.")


def _print_broken(finding: Finding) -> None:
    _line("BROKEN", finding.sentence)
    _line("", finding.meaning)
    further = finding.offenders - len(finding.examples)
    what = ("batch", "batches") if finding.unit == "batches" else ("problem", "problems")
    _line("", f"{finding.offenders} {what[finding.offenders > 1]}:")
    for each in finding.examples:
        _line("", str(each))
    if further:
        _line("", f"and {further} more")
    print(f"{'':{_INDENT}}Look: {finding.look}")


def _line(word: str, sentence: str) -> None:
    print(hanging(f"{word:{_INDENT}}", sentence, indent=_INDENT))


def _json(
    is_sound: bool,  # noqa: FBT001 - named at the call
    findings: Sequence[Finding],
    broken: Sequence[Finding],
    detached: Sequence[Detached],
    letters: Mapping[str, int] | None,
) -> dict[str, Any]:
    return {
        "is_sound": is_sound,
        "checks": [
            {**asdict(each), "examples": list(map(str, each.examples)), "holds": each not in broken}
            for each in findings
        ],
        "detached": {each.table: [f"{month:%Y-%m}" for month in each.months] for each in detached},
        "dead_letters": None if letters is None else dict(letters),
    }
