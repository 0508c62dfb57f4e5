"""Checks of the stored record: what must hold of every problem, whatever crashed, was redelivered or was restored.

Each check reads whole tables and finds the ids of the problems that break it, most of them by one statement. All of
them read one snapshot, so they hold for a running service too: a transaction writes a problem with its steps and
decisions.

Operators detach months of `steps` and `decisions` (docs/operations/retention.md). A month counts as detached if the
table is partitioned and has no row of that month. Its rows are left out, not missing.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, text

from shared.store.checks import LOOK_AT_AUDIT, LOOK_AT_PROBLEM, Check, Scope
from shared.store.compatibility import read_schema
from shared.store.course_checks import PREFIXES, find_broken_prefixes
from shared.store.database import Database
from shared.store.record_checks import CHECKS, HAS_STEPS, MONTHS

EXAMPLES: Final = 5
"""Maximum number of ids that a finding names."""

EVERYTHING: Final = Scope()

COUNT: Final = len(CHECKS) + 1
"""Number of findings that `verify` yields."""

_OPEN: Final = Check(
    name="ended",
    sentence="Every problem has ended.",
    meaning="Problems are still running, or stuck.",
    unit="problems",
    offenders="SELECT id FROM problems WHERE finished_at IS NULL",
    look=LOOK_AT_PROBLEM,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The outcome of one check."""

    name: str
    sentence: str
    """What holds if there are no offenders."""
    meaning: str
    """What it would mean if there were some."""
    counted: int
    """Number of rows that were checked."""
    unit: str
    """What these rows are."""
    offenders: int = 0
    examples: tuple[UUID, ...] = ()
    """First ids of the offenders."""
    look: str = ""
    """Statement that shows the rows of the first offender; empty if there is none."""


@dataclass(frozen=True, slots=True)
class Detached:
    """Months of one table that were detached."""

    table: str
    months: tuple[datetime, ...]


@contextmanager
def snapshot(database: Database) -> Iterator[Connection]:
    """Open a transaction for the block whose statements see one snapshot and write nothing.

    Args:
        database: Without a time-out for statements: the checks read whole tables.

    Raises:
        DatabaseUnavailable: The database does not answer.
        SchemaOutdated, CodeOutdated: This version does not fit the schema.
    """
    with database.connect() as connection:
        connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        if error := read_schema(connection).error:
            raise error
        yield connection


def count_open(connection: Connection, scope: Scope = EVERYTHING) -> Finding:
    """Check that every problem has ended."""
    return _run(connection, _OPEN, {}, scope)


def find_detached(connection: Connection, scope: Scope = EVERYTHING) -> list[Detached]:
    """Find the months that were detached from partitioned tables."""
    found = []
    for table, statement in MONTHS.items():
        if connection.scalar(text(f"SELECT relkind = 'p' FROM pg_class WHERE oid = '{table}'::regclass")):
            # The table itself is not limited: a month of which it has other rows is not detached.
            limited = text(scope.over(statement, tables={"problems": "id"}))
            found.append(Detached(table, tuple(connection.scalars(limited, scope.parameters))))
    return [each for each in found if each.months]


def verify(connection: Connection, detached: Sequence[Detached], scope: Scope = EVERYTHING) -> Iterator[Finding]:
    """Run every check that holds of open problems as well.

    Args:
        connection: Of `snapshot`.
        detached: What `find_detached` returned.
        scope: The problems to check. Drafts are compared only with those of other problems in the scope.
    """
    months: dict[str, Any] = {each: [] for each in MONTHS}
    months |= {each.table: list(each.months) for each in detached}
    for check in CHECKS:
        yield _run(connection, check, months, scope)
    yield _check_prefixes(connection, months, scope)


def _check_prefixes(connection: Connection, months: dict[str, Any], scope: Scope) -> Finding:
    offenders, first = 0, list[UUID]()
    for each in find_broken_prefixes(connection, HAS_STEPS, {"steps": months["steps"]}, scope):
        offenders += 1
        first = heapq.nsmallest(EXAMPLES, [*first, each])
    return Finding(
        name="prefixes",
        sentence=PREFIXES,
        meaning="A step was changed, or follows from another solution.",
        counted=_count(connection, "decisions", scope),
        unit="decisions",
        offenders=offenders,
        examples=tuple(first),
        look=_look(LOOK_AT_AUDIT, first),
    )


def _run(connection: Connection, check: Check, months: dict[str, Any], scope: Scope) -> Finding:
    counted = _count(connection, check.unit, scope)
    summary = f"""
    SELECT count(*), (array_agg(id ORDER BY id))[1:{EXAMPLES}]
    FROM (SELECT DISTINCT id FROM ({check.offenders}) AS found) AS offenders
    """
    used = {name: value for name, value in months.items() if f":{name}" in summary}
    statement = text(scope.over(summary, unit=check.unit))
    [(offenders, examples)] = connection.execute(statement, {**used, **scope.parameters})
    return Finding(
        name=check.name,
        sentence=check.sentence,
        meaning=check.meaning,
        counted=counted,
        unit=check.unit,
        offenders=offenders,
        examples=tuple(examples or ()),
        look=_look(check.look, examples or ()),
    )


def _count(connection: Connection, unit: str, scope: Scope) -> int:
    counted = scope.over(f"SELECT count(*) FROM {unit}", unit=unit)
    return connection.scalar(text(counted), scope.parameters) or 0


def _look(statement: str, examples: Sequence[UUID]) -> str:
    return statement.replace(":id", f"'{examples[0]}'") if examples else ""
