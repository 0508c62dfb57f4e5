"""Checks that the ledger of each problem adds up to its decisions and steps."""

from __future__ import annotations

from typing import Final

from shared.store.course_checks import Check
from shared.store.rows import LEDGER_COLUMNS

DISCARDED: Final = Check(
    "The escalations and discarded tokens of a problem are those of its decisions.",
    "problems",
    """
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
)

# The ledger has estimates of what became no step, too.
ESTIMATED: Final = Check(
    "The estimated tokens of a problem's steps and escalated drafts are in its ledger.",
    "problems",
    """
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
)

NOT_NEGATIVE: Final = Check(
    "No count of a ledger is negative.",
    "problems",
    f"SELECT id FROM problems WHERE least({', '.join(LEDGER_COLUMNS)}) < 0",
)
