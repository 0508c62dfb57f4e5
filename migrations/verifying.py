"""Verifies the record of all problems: prints one line for each check. `trim check` prints the same for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from shared.bus.dead_letters import count_dead_letters
from shared.settings import Settings
from shared.store import verification
from shared.store.database import Database
from shared.store.verification import Detached, Finding


def verify(settings: Settings, *, allow_open: bool, tell: Callable[[str], object]) -> bool:
    """Check the record of all problems in one snapshot of the database, and the dead-letter queues if a broker is set.

    Args:
        settings: Where database and broker are.
        allow_open: Whether problems that have not ended are no fault, as in a running service.
        tell: Receives one line for each check.

    Returns:
        Whether every check passed.

    Raises:
        DatabaseUnavailable, BrokerUnavailable: A server does not answer.
        SchemaOutdated, CodeOutdated: This version does not fit the schema.
    """
    passed = True
    for is_good, line in _lines(settings, allow_open=allow_open):
        passed = passed and is_good
        tell(f"{'ok     ' if is_good else 'FAILED '} {line}\n")
    return passed


def _lines(settings: Settings, *, allow_open: bool) -> Iterator[tuple[bool, str]]:
    """Yield the outcome of each check, with a line for people."""
    url = settings.require_database_url()
    with closing(Database(url, statement_timeout_s=0)) as database, verification.snapshot(database) as connection:
        unfinished = verification.count_open(connection)
        yield allow_open or not unfinished.offenders, _describe(unfinished)
        detached = verification.find_detached(connection)
        for finding in verification.verify(connection, detached):
            yield not finding.offenders, _describe(finding)
        if detached:
            yield True, describe_detached(detached)
    yield _check_dead_letters(settings)


def _describe(finding: Finding) -> str:
    if not finding.offenders:
        return f"{finding.sentence} ({finding.counted} {finding.unit})"
    named = ", ".join(map(str, finding.examples))
    return f"{finding.sentence} Not so: {finding.offenders} of {finding.counted} {finding.unit}, with the ids {named}"


def describe_detached(detached: Sequence[Detached]) -> str:
    """Name the months that were left out."""
    named = "; ".join(f"{each.table} of {', '.join(f'{month:%Y-%m}' for month in each.months)}" for each in detached)
    return f"Months without any row count as detached and are left out: {named}."


def _check_dead_letters(settings: Settings) -> tuple[bool, str]:
    if settings.broker_url is None:
        return True, "Dead letters are not counted: TRIM_BROKER_URL is not set."
    filled = {name: count for name, count in count_dead_letters(settings).items() if count}
    found = f" Not so: {', '.join(f'{count} in {name}' for name, count in filled.items())}" if filled else ""
    return not filled, f"No message is a dead letter.{found}"
