"""The statements that check the record of problems, their steps and decisions, and find months that were detached."""

from __future__ import annotations

from typing import Final

from shared.domain.status import Status
from shared.store.checks import (
    LOOK_AT_AUDIT,
    LOOK_AT_BATCH,
    LOOK_AT_DECISIONS,
    LOOK_AT_PROBLEM,
    LOOK_AT_SHADOWS,
    LOOK_AT_STEPS,
    Check,
)
from shared.store.course_checks import BOOKED, DEADLINES, DRAFTS, TIMES
from shared.store.ledger_checks import DISCARDED, ESTIMATED, NOT_NEGATIVE


def _month_of(problem_id: str) -> str:
    """Return SQL for the month in which a problem was submitted, which its id begins with."""
    milliseconds = f"('x' || translate(left({problem_id}::text, 13), '-', ''))::bit(48)::bigint"
    return f"date_trunc('month', to_timestamp({milliseconds} / 1000.0))"


def _first_id(moment: str) -> str:
    """Return SQL for the smallest id of a problem that was submitted at a time."""
    return f"rpad(lpad(to_hex((extract(epoch FROM {moment}) * 1000)::bigint), 12, '0'), 32, '0')::uuid"


# `steps` is partitioned by the id of the problem, `decisions` by its time. No index leads to a month's decisions, but
# the server reads only partitions that may hold some, and of these the first row.
MONTHS: Final = {
    "steps": f"""
    SELECT month FROM (SELECT DISTINCT {_month_of("id")} AS month FROM problems WHERE step_count > 0) AS worked
    WHERE NOT EXISTS (
        SELECT FROM steps
        WHERE problem_id >= {_first_id("month")} AND problem_id < {_first_id("month + interval '1 month'")})
    ORDER BY month
    """,
    "decisions": """
    SELECT month
    FROM (SELECT min(started_at) AS since, greatest(max(finished_at), now()) AS until FROM problems) AS spanned,
         generate_series(date_trunc('month', since), until, interval '1 month') AS month
    WHERE NOT EXISTS (SELECT FROM decisions WHERE decided_at >= month AND decided_at < month + interval '1 month')
    AND EXISTS (
        SELECT FROM problems
        WHERE decision_count > 0 AND started_at < month + interval '1 month' AND coalesce(finished_at, now()) >= month)
    ORDER BY month
    """,
}
"""Statements that select the months of which a partitioned table has no rows, although problems ran in them."""

HAS_STEPS = f"NOT {_month_of('p.id')} = ANY(CAST(:steps AS timestamptz[]))"

_ENDED = ", ".join(f"'{each}'" for each in Status if each.is_final)

_STATUS = Check(
    name="status",
    sentence="Status, result and times of a problem agree.",
    meaning="Half a state was written.",
    unit="problems",
    offenders=f"""
    SELECT id FROM problems
    WHERE (status IN ({_ENDED})) <> (finished_at IS NOT NULL)
       OR (status = 'succeeded') <> (stop_reason IS NOT NULL)
       OR (status = 'succeeded' AND verdict IS NULL)
       OR (status IN ('queued', 'running') AND verdict IS NOT NULL)
       OR (status IN ('failed', 'cancelled', 'expired') AND verdict NOT IN ('no_answer', 'unverified'))
       OR (status = 'failed') <> (failure_code IS NOT NULL)
       OR (status = 'running' AND due_at IS NULL AND absences = '{{}}')
       OR (status <> 'running' AND (due_at IS NOT NULL OR absences <> '{{}}'))
       OR (status = 'queued' AND (started_at IS NOT NULL OR request_count > 0))
       OR (status IN ({_ENDED}) AND (request IS NOT NULL OR pending <> '[]'))
    """,
    look=LOOK_AT_PROBLEM,
)

_BATCHES = Check(
    name="batches",
    sentence="Every batch has its problems.",
    meaning="A submission was stored in part.",
    unit="batches",
    offenders="""
    SELECT b.id FROM batches b LEFT JOIN problems p ON p.batch_id = b.id
    GROUP BY b.id, b.size HAVING count(p.id) <> b.size OR min(p.batch_index) <> 0 OR max(p.batch_index) <> b.size - 1
    """,
    look=LOOK_AT_BATCH,
)

_STEPS = Check(
    name="steps",
    sentence="The steps of a problem have no gap, and the problem counts them.",
    meaning="A write was lost, or done twice.",
    unit="steps",
    offenders=f"""
    SELECT p.id
    FROM problems p
    LEFT JOIN (
        SELECT problem_id, count(*) AS rows, min(step) AS first, max(step) AS last FROM steps GROUP BY problem_id
    ) AS s ON s.problem_id = p.id
    WHERE (coalesce(s.rows, 0) <> p.step_count OR s.first <> 0 OR s.last <> p.step_count - 1) AND {HAS_STEPS}
    """,
    look=LOOK_AT_STEPS,
)

# A row before the first decision and one after the last stand for the problem's start and end, so that decisions that
# are missing there leave a gap as well. A gap is explained if its decisions may have been taken in a detached month.
_DECISIONS = Check(
    name="decisions",
    sentence="The decisions of a problem have no gap and no number twice, and the problem counts them.",
    meaning="A write was lost, or done twice.",
    unit="decisions",
    offenders="""
    WITH suspects AS (
        SELECT p.id, p.decision_count, coalesce(p.started_at, p.created_at) AS since,
               coalesce(p.finished_at, now()) AS until
        FROM problems p
        LEFT JOIN (
            SELECT problem_id, count(*) AS rows, count(DISTINCT number) AS numbers, min(number) AS first,
                   max(number) AS last
            FROM decisions GROUP BY problem_id
        ) AS d ON d.problem_id = p.id
        WHERE coalesce(d.rows, 0) <> p.decision_count OR d.numbers <> d.rows OR d.first <> 0 OR d.last <> d.rows - 1
    ), places AS (
        SELECT id, -1 AS number, since AS at FROM suspects
        UNION ALL SELECT id, decision_count, until FROM suspects
        UNION ALL SELECT id, number, decided_at FROM suspects JOIN decisions ON problem_id = id
    ), distances AS (
        SELECT id, number, at, number - lag(number) OVER w AS distance, lag(at) OVER w AS at_before
        FROM places WINDOW w AS (PARTITION BY id ORDER BY number, at)
    )
    SELECT id FROM distances JOIN suspects USING (id)
    WHERE distance = 0 OR number > decision_count OR (distance > 1 AND NOT EXISTS (
        SELECT FROM unnest(CAST(:decisions AS timestamptz[])) AS month
        WHERE month <= greatest(at, at_before) AND month + interval '1 month' > least(at, at_before)))
    """,
    look=LOOK_AT_DECISIONS,
)

_ORDER = Check(
    name="order",
    sentence="The decisions of a problem are in the order of its steps and epochs.",
    meaning="Two orchestrators decided the same step.",
    unit="decisions",
    offenders="""
    SELECT problem_id AS id
    FROM (
        SELECT problem_id, step, epoch, lag(step) OVER w AS step_before, lag(epoch) OVER w AS epoch_before
        FROM decisions WINDOW w AS (PARTITION BY problem_id ORDER BY number)
    ) AS d
    WHERE step < step_before OR epoch < epoch_before
    UNION ALL
    SELECT p.id FROM problems p JOIN decisions d ON d.problem_id = p.id
    WHERE d.epoch > p.epoch OR d.step > p.step_count
    """,
    look=LOOK_AT_DECISIONS,
)

# A draft without words ends the solution and becomes no step. An erasure empties both texts.
_ACCEPTED = Check(
    name="accepted",
    sentence="An accepted draft is the step at its place.",
    meaning="A step does not follow from its decision.",
    unit="decisions",
    offenders=f"""
    SELECT p.id
    FROM decisions d JOIN problems p ON p.id = d.problem_id
    LEFT JOIN steps s ON s.problem_id = d.problem_id AND s.step = d.step
    WHERE d.action = 'accept' AND {HAS_STEPS} AND CASE
        WHEN s.problem_id IS NULL THEN
            p.finished_at IS NULL OR d.step <> p.step_count OR coalesce(d.draft_text, '') ~ '\\w'
        ELSE
            s.author <> 'small' OR s.tokens <> d.draft_tokens
            OR s.estimated_tokens <> coalesce(d.draft_estimated_tokens, s.estimated_tokens)
            OR s.text <> coalesce(d.draft_text, '')
            OR s.score IS DISTINCT FROM (d.observation ->> 'score')::double precision
    END
    """,
    look=LOOK_AT_AUDIT,
)

# If the budget had no room for the rewrite after all, or the large model was away, a later decision on the same step
# accepts another draft.
_ESCALATED = Check(
    name="escalated",
    sentence="The large model wrote each escalated step.",
    meaning="A step does not follow from its decision.",
    unit="decisions",
    offenders=f"""
    SELECT p.id
    FROM decisions d JOIN problems p ON p.id = d.problem_id
    JOIN steps s ON s.problem_id = d.problem_id AND s.step = d.step
    WHERE d.action = 'escalate' AND s.author <> 'large' AND {HAS_STEPS} AND NOT EXISTS (
        SELECT FROM decisions later
        WHERE later.problem_id = d.problem_id AND later.step = d.step AND later.number > d.number
        AND later.action = 'accept')
    """,
    look=LOOK_AT_AUDIT,
)

_HAS_DECISIONS = "(SELECT count(*) FROM decisions WHERE problem_id = p.id) = p.decision_count"

_DECIDED = Check(
    name="decided",
    sentence="Every step has the decision that it follows from.",
    meaning="A step does not follow from a decision.",
    unit="steps",
    offenders=f"""
    SELECT p.id
    FROM steps s JOIN problems p ON p.id = s.problem_id
    WHERE NOT EXISTS (
        SELECT FROM decisions d
        WHERE d.problem_id = s.problem_id AND d.step = s.step
        AND d.action = CASE s.author WHEN 'small' THEN 'accept' ELSE 'escalate' END)
    AND {_HAS_DECISIONS}
    """,
    look=LOOK_AT_AUDIT,
)

_KEPT = Check(
    name="kept",
    sentence="The kept tokens of a problem are those of its steps.",
    meaning="The ledger does not add up.",
    unit="problems",
    offenders=f"""
    SELECT p.id
    FROM problems p
    LEFT JOIN (
        SELECT problem_id, sum(tokens) FILTER (WHERE author = 'small') AS small,
               sum(tokens) FILTER (WHERE author = 'large') AS large
        FROM steps GROUP BY problem_id
    ) AS kept ON kept.problem_id = p.id
    WHERE (p.small_kept, p.large_out) <> (coalesce(kept.small, 0), coalesce(kept.large, 0)) AND {HAS_STEPS}
    """,
    look=LOOK_AT_STEPS,
)

# An orchestrator of a version before shadows writes no rows for them, so none at all is no fault.
_SHADOWS = Check(
    name="shadows",
    sentence="Every decision of a shadow has the policy's decision beside it, and no shadow of that decision is"
    " missing.",
    meaning="A write was lost, or done twice.",
    unit="shadow_decisions",
    offenders="""
    SELECT s.problem_id AS id
    FROM shadow_decisions s
    LEFT JOIN decisions d ON (d.problem_id, d.number, d.decided_at) = (s.problem_id, s.number, s.decided_at)
    WHERE (d.problem_id IS NULL AND NOT date_trunc('month', s.decided_at) = ANY(CAST(:decisions AS timestamptz[])))
    OR d.decided_by <> 'policy' OR s.agrees <> (s.action = d.action)
    UNION ALL
    SELECT p.id
    FROM (
        SELECT problem_id, count(*) AS rows, max(shadow) AS last
        FROM shadow_decisions GROUP BY problem_id, number, decided_at
    ) AS s JOIN problems p ON p.id = s.problem_id
    WHERE s.rows <> jsonb_array_length(p.shadows) OR s.last <> s.rows - 1
    """,
    look=LOOK_AT_SHADOWS,
)

_ERASED = Check(
    name="erased",
    sentence="An erased problem has no text.",
    meaning="An erasure was undone, for example by hand.",
    unit="problems",
    offenders="""
    SELECT id FROM problems
    WHERE erased_at IS NOT NULL
    AND (question <> '' OR num_nonnulls(reference, answer, failure_detail) > 0)
    UNION ALL
    SELECT p.id FROM problems p JOIN steps s ON s.problem_id = p.id WHERE p.erased_at IS NOT NULL AND s.text <> ''
    UNION ALL
    SELECT p.id FROM problems p JOIN decisions d ON d.problem_id = p.id
    WHERE p.erased_at IS NOT NULL AND d.draft_text IS NOT NULL
    """,
    look=LOOK_AT_PROBLEM,
)

CHECKS: Final = (
    _STATUS, _BATCHES, _STEPS, _DECISIONS, _ORDER, DRAFTS, BOOKED, _ACCEPTED, _ESCALATED, _DECIDED, _KEPT, DISCARDED,
    ESTIMATED, NOT_NEGATIVE, _SHADOWS, _ERASED, TIMES, DEADLINES,
)  # fmt: skip
