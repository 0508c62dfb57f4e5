"""Functions, triggers and views, in the order in which they are created. `python -m migrations check` compares them.

Migrations create them from copies that never change.
"""

from __future__ import annotations

REFUSE_CHANGE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$
"""

DECISIONS_APPEND_ONLY = """
CREATE TRIGGER decisions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON decisions
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
"""

AUDIT = """
CREATE VIEW audit AS
SELECT
    p.id AS problem_id, d.step, p.policy, p.policy_parameters, p.policy_revision, p.status,
    d.action, d.reason, d.value, d.against, d.score AS draft_score, d.previous_scores, d.epoch,
    d.draft_text, d.draft_tokens, d.draft_model, d.draft_worker, d.draft_waited_ms, d.draft_worked_ms,
    d.prm_model, d.prm_worker, d.prm_tokens, d.prm_waited_ms, d.prm_worked_ms, d.decided_at,
    s.author, s.text AS step_text, s.tokens AS step_tokens, s.score AS step_score, s.model AS step_model,
    s.worker AS step_worker, s.waited_ms AS step_waited_ms, s.worked_ms AS step_worked_ms, s.accepted_at
FROM decisions d
JOIN problems p ON p.id = d.problem_id
LEFT JOIN steps s ON s.problem_id = d.problem_id AND s.step = d.step
"""
"""One row per step for auditors: the draft, its score, the decision, and the step that was accepted."""

OBJECTS = (REFUSE_CHANGE, DECISIONS_APPEND_ONLY, AUDIT)
