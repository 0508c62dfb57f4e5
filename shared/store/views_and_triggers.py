"""Functions, triggers and views, in the order in which they are created. `python -m migrations check` compares them.

Migrations create them from copies that never change.
"""

from __future__ import annotations

REFUSE_CHANGE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_erased boolean;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        OLD.draft_text := NULL;
        IF NEW IS NOT DISTINCT FROM OLD THEN
            EXECUTE format(
                'SELECT EXISTS (SELECT FROM %I.problems WHERE id = $1 AND erased_at IS NOT NULL'
                ' AND status NOT IN (''queued'', ''running''))', TG_TABLE_SCHEMA
            ) INTO is_erased USING NEW.problem_id;
            IF is_erased THEN
                RETURN NEW;
            END IF;
        END IF;
    END IF;
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$
"""
"""Trigger function of `decisions`: allows only the erasure of a draft's text, once its problem is erased.

It finds the problem in the schema of the table with the trigger. The session's search path could name another table,
for example a temporary one.
"""

DECISIONS_APPEND_ONLY = """
CREATE TRIGGER decisions_append_only BEFORE UPDATE OR DELETE ON decisions
FOR EACH ROW EXECUTE FUNCTION refuse_change()
"""

DECISIONS_NEVER_TRUNCATED = """
CREATE TRIGGER decisions_never_truncated BEFORE TRUNCATE ON decisions
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
"""

ERASE_PROBLEM = """
CREATE FUNCTION erase_problem(erased uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    found_status text;
BEGIN
    SELECT status INTO found_status FROM problems WHERE id = erased FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no problem %', erased USING ERRCODE = 'no_data_found';
    END IF;
    IF found_status IN ('queued', 'running') THEN
        RAISE EXCEPTION 'problem % is %: cancel it and erase it once it has ended', erased, found_status
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    UPDATE problems
    SET erased_at = coalesce(erased_at, now()), question = '', reference = NULL, answer = NULL, failure_detail = NULL,
        request = NULL, pending = '[]'
    WHERE id = erased;
    UPDATE steps SET text = '' WHERE problem_id = erased AND text <> '';
    UPDATE decisions SET draft_text = NULL WHERE problem_id = erased AND draft_text IS NOT NULL;
END $$
"""
"""Erases the texts of a problem that has ended. Numbers, scores, models and decisions stay."""

AUDIT = """
CREATE VIEW audit AS
SELECT
    d.problem_id, d.number, d.decided_at, p.tenant_id, p.status,
    d.step, d.epoch, d.decided_by, d.policy, d.policy_revision, d.policy_digest, p.policy_parameters,
    d.action, d.reason, d.value, d.compared_with, d.observation,
    (d.observation ->> 'score')::double precision AS draft_score,
    d.draft_id, d.draft_text, d.draft_finish, d.draft_prefix_digest, d.draft_tokens, d.draft_prompt_tokens,
    d.draft_cached_tokens, d.draft_model, d.draft_worker, d.draft_waited_ms, d.draft_worked_ms,
    d.prm_model, d.prm_worker, d.prm_tokens, d.prm_waited_ms, d.prm_worked_ms,
    s.author AS step_author, s.text AS step_text, s.finish AS step_finish, s.tokens AS step_tokens,
    s.score AS step_score, s.model AS step_model, s.worker AS step_worker, s.waited_ms AS step_waited_ms,
    s.worked_ms AS step_worked_ms,
    s.accepted_at AS step_accepted_at,
    d.numbers, d.propensity, p.policy_wrappers, d.policy_version,
    s.estimated_tokens AS step_estimated_tokens, d.draft_estimated_tokens, d.prm_estimated_tokens
FROM decisions d
JOIN problems p ON p.id = d.problem_id
LEFT JOIN steps s ON s.problem_id = d.problem_id AND s.step = d.step
"""
"""One row for each decision, for auditors: the draft, its score, the decision, and the step that is there now."""

REFUSE_POLICY_CHANGE = """
CREATE FUNCTION refuse_policy_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        OLD.is_default := NEW.is_default;
        OLD.retired_at := NEW.retired_at;
        IF NEW IS NOT DISTINCT FROM OLD THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'versions of policies are immutable: % refused', TG_OP USING ERRCODE = 'restrict_violation';
END $$
"""
"""Trigger function of `policy_versions`: allows only a change of the default and a retirement."""

POLICY_VERSIONS_IMMUTABLE = """
CREATE TRIGGER policy_versions_immutable BEFORE UPDATE OR DELETE ON policy_versions
FOR EACH ROW EXECUTE FUNCTION refuse_policy_change()
"""

POLICY_VERSIONS_NEVER_TRUNCATED = """
CREATE TRIGGER policy_versions_never_truncated BEFORE TRUNCATE ON policy_versions
FOR EACH STATEMENT EXECUTE FUNCTION refuse_policy_change()
"""

REFUSE_EVERY_CHANGE = """
CREATE FUNCTION refuse_every_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$
"""
"""Trigger function of `shadow_decisions`, which hold no text that an erasure would have to reach."""

SHADOW_DECISIONS_APPEND_ONLY = """
CREATE TRIGGER shadow_decisions_append_only BEFORE UPDATE OR DELETE ON shadow_decisions
FOR EACH ROW EXECUTE FUNCTION refuse_every_change()
"""

SHADOW_DECISIONS_NEVER_TRUNCATED = """
CREATE TRIGGER shadow_decisions_never_truncated BEFORE TRUNCATE ON shadow_decisions
FOR EACH STATEMENT EXECUTE FUNCTION refuse_every_change()
"""

OBJECTS = (
    REFUSE_CHANGE,
    DECISIONS_APPEND_ONLY,
    DECISIONS_NEVER_TRUNCATED,
    ERASE_PROBLEM,
    AUDIT,
    REFUSE_POLICY_CHANGE,
    POLICY_VERSIONS_IMMUTABLE,
    POLICY_VERSIONS_NEVER_TRUNCATED,
    REFUSE_EVERY_CHANGE,
    SHADOW_DECISIONS_APPEND_ONLY,
    SHADOW_DECISIONS_NEVER_TRUNCATED,
)
