"""A check of the stored record, the problems that it is limited to, and the queries that show what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A check of the stored record by one statement."""

    name: str
    sentence: str
    """What holds if there are no offenders."""
    meaning: str
    """What it would mean if it did not hold."""
    unit: str
    """Table whose rows are checked."""
    offenders: str
    """Statement that selects the ids of the offenders, possibly more than once."""
    look: str
    """Statement that shows the rows of the offender `:id`."""


LOOK_AT_PROBLEM: Final = "SELECT * FROM problems WHERE id = :id;"
LOOK_AT_BATCH: Final = (
    "SELECT b.id, b.size, count(p.id), min(p.batch_index), max(p.batch_index)"
    " FROM batches b LEFT JOIN problems p ON p.batch_id = b.id WHERE b.id = :id GROUP BY b.id;"
)
LOOK_AT_STEPS: Final = (
    "SELECT p.step_count, s.* FROM problems p LEFT JOIN steps s ON s.problem_id = p.id WHERE p.id = :id ORDER BY step;"
)
LOOK_AT_DECISIONS: Final = (
    "SELECT p.decision_count, p.started_at, p.finished_at, d.* FROM problems p"
    " LEFT JOIN decisions d ON d.problem_id = p.id WHERE p.id = :id ORDER BY number;"
)
LOOK_AT_AUDIT: Final = "SELECT * FROM audit WHERE problem_id = :id ORDER BY number;"
LOOK_AT_SHADOWS: Final = (
    "SELECT d.decided_by, d.action AS policy_action, s.* FROM shadow_decisions s"
    " LEFT JOIN decisions d USING (problem_id, number, decided_at) WHERE s.problem_id = :id ORDER BY number, shadow;"
)


@dataclass(frozen=True, slots=True)
class Scope:
    """The problems to which checks are limited; by default all."""

    since: datetime | None = None
    """Submitted at or after this time."""
    problem: UUID | None = None
    """Only this one."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Parameters of the statements that `over` returns."""
        if self.problem is not None:
            return {"only": self.problem}
        return {} if self.since is None else {"first": first_id(self.since)}

    def over(self, statement: str, *, unit: str = "", tables: Mapping[str, str] | None = None) -> str:
        """Limit a statement to the problems of the scope.

        A common table expression hides the table of its name. Postgres inlines each, so that the conditions use the
        indexes as if they were in the statement.

        Args:
            statement: The statement, which must not begin with WITH.
            unit: What is checked: batches are compared with all of their problems.
            tables: Tables to limit, each with its column of the problem's id; by default all.
        """
        if not self.parameters:
            return statement
        if unit == "batches":
            limits = {"batches": f"id {_BATCH if self.problem is not None else _SINCE}"}
        else:
            limit = "= :only" if self.problem is not None else _SINCE
            limits = {table: f"{column} {limit}" for table, column in (tables or TABLES).items()}
        hidden = ", ".join(
            f"{table} AS NOT MATERIALIZED (SELECT * FROM {table} WHERE {limit})" for table, limit in limits.items()
        )
        return f"WITH {hidden} {statement}"


TABLES: Final = {
    "problems": "id",
    "steps": "problem_id",
    "decisions": "problem_id",
    "shadow_decisions": "problem_id",
    "inbox": "problem_id",
}
"""Tables with rows of problems, each with its column of the problem's id."""

_SINCE: Final = ">= :first"
_BATCH: Final = "= (SELECT batch_id FROM problems WHERE id = :only)"


def first_id(moment: datetime) -> UUID:
    """Return the smallest id (UUIDv7) of a problem or batch that was submitted at a time."""
    milliseconds = max(0, int(moment.timestamp() * 1000))
    return UUID(int=milliseconds << 80)
