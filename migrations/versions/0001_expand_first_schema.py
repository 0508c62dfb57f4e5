"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

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
    s.accepted_at AS step_accepted_at
FROM decisions d
JOIN problems p ON p.id = d.problem_id
LEFT JOIN steps s ON s.problem_id = d.problem_id AND s.step = d.step
"""


def upgrade() -> None:
    """Apply."""
    _create_service_tables()
    _create_batches()
    _create_problems()
    _create_idempotency_keys()
    _create_steps()
    _create_decisions()
    _create_inbox()
    for statement in (REFUSE_CHANGE, DECISIONS_APPEND_ONLY, DECISIONS_NEVER_TRUNCATED, ERASE_PROBLEM, AUDIT):
        op.execute(statement)


def downgrade() -> None:
    """Take back."""
    op.execute("DROP VIEW audit")
    op.execute("DROP FUNCTION erase_problem(uuid)")
    for table in ("inbox", "decisions", "steps", "idempotency_keys", "problems", "batches", "processes"):
        op.drop_table(table)
    op.execute("DROP FUNCTION refuse_change()")
    op.drop_table("schema_compatibility")


def _create_service_tables() -> None:
    schema_compatibility = op.create_table(
        "schema_compatibility",
        sa.Column("is_only_row", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("oldest_code", sa.Text(), nullable=False),
        sa.CheckConstraint("is_only_row", name=op.f("ck_schema_compatibility_is_only_row")),
        sa.PrimaryKeyConstraint("is_only_row", name=op.f("pk_schema_compatibility")),
    )
    op.bulk_insert(schema_compatibility, [{"oldest_code": "0001"}])
    op.create_table(
        "processes",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_processes")),
    )


def _create_batches() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), server_default="00000000-0000-0000-0000-000000000000", nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )


def _create_problems() -> None:
    op.create_table(
        "problems",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), server_default="00000000-0000-0000-0000-000000000000", nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column("batch_index", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("policy_revision", sa.Integer(), nullable=False),
        sa.Column("policy_parameters", postgresql.JSONB(), nullable=False),
        sa.Column("options", postgresql.JSONB(), nullable=False),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status", sa.Text(), server_default="queued", nullable=False),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("epoch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("request", postgresql.JSONB(), nullable=True),
        sa.Column("request_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("oldest_request", sa.Integer(), server_default="0", nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("pending", postgresql.JSONB(), server_default="[]", nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("step_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("escalation_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("decision_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("stop_reason", sa.Text(), nullable=True),
        sa.Column("failure_code", sa.Text(), nullable=True),
        sa.Column("failure_detail", sa.Text(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("small_kept", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("small_discarded", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("small_wasted", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("small_estimated", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("small_in", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("large_out", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("large_wasted", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("large_estimated", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("large_in", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("prm_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("prm_estimated", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("small_calls", sa.Integer(), server_default="0", nullable=False),
        sa.Column("large_calls", sa.Integer(), server_default="0", nullable=False),
        sa.Column("prm_calls", sa.Integer(), server_default="0", nullable=False),
        sa.Column("is_inbox_pruned", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'expired')",
            name=op.f("ck_problems_status"),
        ),
        sa.CheckConstraint(
            "stop_reason IN ('final_answer', 'max_steps', 'token_limit', 'size_limit', 'degenerate')",
            name=op.f("ck_problems_stop_reason"),
        ),
        sa.CheckConstraint(
            "verdict IN ('correct', 'incorrect', 'no_answer', 'unverified')", name=op.f("ck_problems_verdict")
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_problems_batch_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_problems")),
        sa.UniqueConstraint("batch_id", "batch_index", name=op.f("uq_problems_batch_id_batch_index")),
        postgresql_with={"fillfactor": 70},
    )
    op.create_index(
        "ix_problems_cancelling",
        "problems",
        ["cancel_requested_at"],
        postgresql_where="cancel_requested_at IS NOT NULL AND status IN ('queued', 'running')",
    )
    op.create_index(
        "ix_problems_deadline",
        "problems",
        ["deadline_at"],
        postgresql_where="deadline_at IS NOT NULL AND status IN ('queued', 'running')",
    )
    op.create_index("ix_problems_queued", "problems", ["tenant_id", "id"], postgresql_where="status = 'queued'")
    op.create_index("ix_problems_running", "problems", ["tenant_id"], postgresql_where="status = 'running'")
    op.create_index("ix_problems_tenant_id_id", "problems", ["tenant_id", "id"])
    op.create_index("ix_problems_tenant_id_policy_id", "problems", ["tenant_id", "policy", "id"])
    op.create_index("ix_problems_tenant_id_policy_status_id", "problems", ["tenant_id", "policy", "status", "id"])
    op.create_index("ix_problems_tenant_id_status_id", "problems", ["tenant_id", "status", "id"])
    op.create_index(
        "ix_problems_unpruned",
        "problems",
        ["finished_at"],
        postgresql_where="finished_at IS NOT NULL AND NOT is_inbox_pruned",
    )


def _create_idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("tenant_id", sa.Uuid(), server_default="00000000-0000-0000-0000-000000000000", nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_digest", sa.Text(), nullable=False),
        sa.Column("problem_id", sa.Uuid(), nullable=True),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("num_nonnulls(problem_id, batch_id) = 1", name=op.f("ck_idempotency_keys_one_result")),
        sa.ForeignKeyConstraint(
            ["batch_id"],
            ["batches.id"],
            name=op.f("fk_idempotency_keys_batch_id"),
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.ForeignKeyConstraint(
            ["problem_id"],
            ["problems.id"],
            name=op.f("fk_idempotency_keys_problem_id"),
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.PrimaryKeyConstraint("tenant_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])


def _create_steps() -> None:
    op.create_table(
        "steps",
        sa.Column("problem_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("finish", sa.Text(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("waited_ms", sa.Double(), nullable=False),
        sa.Column("worked_ms", sa.Double(), nullable=False),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("author IN ('small', 'large')", name=op.f("ck_steps_author")),
        sa.CheckConstraint("finish IN ('separator', 'ended', 'length')", name=op.f("ck_steps_finish")),
        sa.ForeignKeyConstraint(["problem_id"], ["problems.id"], name=op.f("fk_steps_problem_id")),
        sa.PrimaryKeyConstraint("problem_id", "step", name=op.f("pk_steps")),
    )


def _create_decisions() -> None:
    op.create_table(
        "decisions",
        sa.Column("problem_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("policy_revision", sa.Integer(), nullable=False),
        sa.Column("policy_digest", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("compared_with", sa.Double(), nullable=True),
        sa.Column("observation", postgresql.JSONB(), nullable=False),
        sa.Column("draft_id", sa.Uuid(), nullable=True),
        sa.Column("draft_text", sa.Text(), nullable=True),
        sa.Column("draft_finish", sa.Text(), nullable=True),
        sa.Column("draft_prefix_digest", sa.Text(), nullable=True),
        sa.Column("draft_tokens", sa.Integer(), nullable=True),
        sa.Column("draft_prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("draft_cached_tokens", sa.Integer(), nullable=True),
        sa.Column("draft_model", sa.Text(), nullable=True),
        sa.Column("draft_worker", sa.Text(), nullable=True),
        sa.Column("draft_waited_ms", sa.Double(), nullable=True),
        sa.Column("draft_worked_ms", sa.Double(), nullable=True),
        sa.Column("prm_model", sa.Text(), nullable=True),
        sa.Column("prm_worker", sa.Text(), nullable=True),
        sa.Column("prm_tokens", sa.Integer(), nullable=True),
        sa.Column("prm_waited_ms", sa.Double(), nullable=True),
        sa.Column("prm_worked_ms", sa.Double(), nullable=True),
        sa.CheckConstraint("action IN ('accept', 'escalate')", name=op.f("ck_decisions_action")),
        sa.CheckConstraint("decided_by IN ('policy', 'rule')", name=op.f("ck_decisions_decided_by")),
        sa.CheckConstraint("draft_finish IN ('separator', 'ended', 'length')", name=op.f("ck_decisions_draft_finish")),
        sa.ForeignKeyConstraint(["problem_id"], ["problems.id"], name=op.f("fk_decisions_problem_id")),
        sa.PrimaryKeyConstraint("problem_id", "number", "decided_at", name=op.f("pk_decisions")),
    )


def _create_inbox() -> None:
    op.create_table(
        "inbox",
        sa.Column("problem_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["problem_id"], ["problems.id"], name=op.f("fk_inbox_problem_id")),
        sa.PrimaryKeyConstraint("problem_id", "id", name=op.f("pk_inbox")),
    )
