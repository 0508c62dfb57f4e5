"""Checks of the course of each problem: its drafts, times and deadline, and the prefix that each draft continues."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, text

from shared.domain.text import extend_digest, prefix_digest
from shared.store.checks import LOOK_AT_AUDIT, LOOK_AT_DECISIONS, LOOK_AT_PROBLEM, Check, Scope

TIMES: Final = Check(
    name="times",
    sentence="The times of a problem are in the order of its course, and none is after its end.",
    meaning="The time was not taken under the lock of the problem.",
    unit="problems",
    offenders="""
    SELECT id FROM problems
    WHERE least(started_at, cancel_requested_at, finished_at) < created_at
       OR finished_at < greatest(started_at, cancel_requested_at)
    UNION ALL
    SELECT p.id
    FROM (
        SELECT problem_id, accepted_at AS at, lag(accepted_at) OVER w AS at_before
        FROM steps WINDOW w AS (PARTITION BY problem_id ORDER BY step)
        UNION ALL
        SELECT problem_id, decided_at, lag(decided_at) OVER w
        FROM decisions WINDOW w AS (PARTITION BY problem_id ORDER BY number)
    ) AS course JOIN problems p ON p.id = course.problem_id
    WHERE at < greatest(at_before, p.started_at) OR at > p.finished_at
    UNION ALL
    SELECT s.problem_id
    FROM steps s JOIN decisions d ON d.problem_id = s.problem_id AND d.step = s.step
    WHERE s.accepted_at < d.decided_at
    """,
    look=LOOK_AT_AUDIT,
)

DEADLINES: Final = Check(
    name="deadlines",
    sentence="No problem succeeded at or after its deadline.",
    meaning="An event was applied that came too late.",
    unit="problems",
    offenders="SELECT id FROM problems WHERE status = 'succeeded' AND finished_at >= deadline_at",
    look=LOOK_AT_PROBLEM,
)

DRAFTS: Final = Check(
    name="drafts",
    sentence="No draft is decided twice, in one problem or in two.",
    meaning="Two orchestrators decided the same step.",
    unit="decisions",
    offenders="""
    SELECT unnest(problem_ids) AS id
    FROM (
        SELECT array_agg(problem_id) AS problem_ids FROM decisions
        WHERE draft_id IS NOT NULL GROUP BY draft_id HAVING count(*) > 1
    ) AS decided
    """,
    look=LOOK_AT_DECISIONS,
)

# The inbox of an ended problem is pruned, and an event that arrives later refills a part of it.
BOOKED: Final = Check(
    name="inbox",
    sentence="The inbox of an open problem has every draft that was decided.",
    meaning="A draft that arrives again would be booked twice.",
    unit="decisions",
    offenders="""
    SELECT p.id FROM problems p JOIN decisions d ON d.problem_id = p.id
    WHERE p.status IN ('queued', 'running') AND d.draft_id IS NOT NULL
    AND NOT EXISTS (SELECT FROM inbox WHERE problem_id = d.problem_id AND id = d.draft_id)
    """,
    look=LOOK_AT_DECISIONS,
)

PREFIXES: Final = "Every decided draft continues the steps before it."

# Postgres has no function for these digests. An erasure empties the texts.
_DRAFTS = """
SELECT p.id, p.question,
       ARRAY(SELECT s.text FROM steps s WHERE s.problem_id = p.id ORDER BY s.step) AS texts,
       d.steps, d.digests
FROM (
    SELECT problem_id, array_agg(step) AS steps, array_agg(draft_prefix_digest) AS digests
    FROM decisions WHERE draft_id IS NOT NULL GROUP BY problem_id
) AS d JOIN problems p ON p.id = d.problem_id
WHERE p.erased_at IS NULL AND {has_steps}
"""


def find_broken_prefixes(
    connection: Connection, has_steps: str, months: Mapping[str, Any], scope: Scope
) -> Iterator[UUID]:
    """Find problems with a decided draft that continues other steps than those before it.

    Args:
        connection: In a transaction.
        has_steps: Condition in SQL that holds of the problems whose steps are in the database.
        months: Parameters of the condition.
        scope: The problems to look at.
    """
    statement = text(scope.over(_DRAFTS.format(has_steps=has_steps)))
    # A solution may have a MiB of text, and as many rows are held at a time.
    rows = connection.execute(statement, {**months, **scope.parameters}, execution_options={"yield_per": 50})
    for problem_id, question, texts, steps, digests in rows:
        known = _digests(question, texts)
        if any(step >= len(known) or known[step] != named for step, named in zip(steps, digests, strict=True)):
            yield problem_id


def _digests(question: str, texts: Sequence[str]) -> list[str]:
    """Return the digest of the prefix before each step, and of all steps."""
    digests = [prefix_digest(question, ())]
    for each in texts:
        digests.append(extend_digest(digests[-1], each))
    return digests
