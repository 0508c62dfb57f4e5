"""Checks that the ledger of each problem adds up to its decisions and steps."""

from __future__ import annotations

from typing import Final

from shared.store.checks import LOOK_AT_DECISIONS, LOOK_AT_PROBLEM, LOOK_AT_STEPS, Check
from shared.store.rows import LEDGER_COLUMNS

DISCARDED: Final = Check(
    name="discarded",
    sentence="The escalations and discarded tokens of a problem are those of its decisions.",
    meaning="The ledger does not add up.",
    unit="problems",
    offenders="""
    SELECT p.id
    FROM problems p
    LEFT JOIN (
        SELECT problem_id, count(*) AS rows, count(*) FILTER (WHERE action = 'escalate') AS escalations,
               sum(draft_tokens) FILTER (WHERE action = 'escalate') AS tokens
        FROM decisions GROUP BY problem_id
    ) AS d ON d.problem_id = p.id
    WHERE coalesce(d.rows, 0) = p.decision_count
    AND (p.escalation_count, p.small_discarded) <> (coalesce(d.escalations, 0), coalesce(d.tokens, 0))
    """,
    look=LOOK_AT_DECISIONS,
)

# The ledger has estimates of what became no step, too.
ESTIMATED: Final = Check(
    name="estimated",
    sentence="The estimated tokens of a problem's steps and escalated drafts are in its ledger.",
    meaning="The ledger does not add up.",
    unit="problems",
    offenders="""
    SELECT p.id
    FROM problems p
    JOIN (
        SELECT problem_id, author = 'large' AS is_large, sum(estimated_tokens) AS tokens FROM steps GROUP BY 1, 2
    ) AS s ON s.problem_id = p.id
    LEFT JOIN (
        SELECT problem_id, sum(draft_estimated_tokens) AS tokens FROM decisions WHERE action = 'escalate' GROUP BY 1
    ) AS d ON d.problem_id = p.id AND NOT s.is_large
    WHERE s.tokens + coalesce(d.tokens, 0) > CASE WHEN s.is_large THEN p.large_estimated ELSE p.small_estimated END
    """,
    look=LOOK_AT_STEPS,
)

NOT_NEGATIVE: Final = Check(
    name="not_negative",
    sentence="No count of a ledger is negative.",
    meaning="The ledger does not add up.",
    unit="problems",
    offenders=f"SELECT id FROM problems WHERE least({', '.join(LEDGER_COLUMNS)}) < 0",
    look=LOOK_AT_PROBLEM,
)
