"""Problems, steps, decisions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


REFUSE_CHANGE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$
"""

DECISIONS_TRIGGER = """
CREATE TRIGGER decisions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON decisions
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
"""

# One row per step, for people who ask why: what was drafted, how it scored, what was decided and what stands there now.
AUDIT_VIEW = """
CREATE VIEW audit AS
SELECT
    p.id AS problem_id, d.step, p.policy, p.policy_parameters, p.policy_revision, p.status,
    d.action, d.reason, d.value, d.compared_with, d.score AS draft_score, d.previous_scores, d.epoch,
    d.draft_text, d.draft_tokens, d.draft_model, d.draft_worker, d.draft_waited_ms, d.draft_worked_ms,
    d.prm_model, d.prm_worker, d.prm_tokens, d.prm_waited_ms, d.prm_worked_ms, d.decided_at,
    s.author, s.text AS step_text, s.tokens AS step_tokens, s.score AS step_score, s.model AS step_model,
    s.worker AS step_worker, s.waited_ms AS step_waited_ms, s.worked_ms AS step_worked_ms, s.accepted_at
FROM decisions d
JOIN problems p ON p.id = d.problem_id
LEFT JOIN steps s ON s.problem_id = d.problem_id AND s.step = d.step
"""


def upgrade() -> None:
    """Apply."""
    schema_compatibility = op.create_table(
        "schema_compatibility",
        sa.Column("is_only_row", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("oldest_code", sa.Text(), nullable=False),
        sa.CheckConstraint("is_only_row", name=op.f("ck_schema_compatibility_is_only_row")),
        sa.PrimaryKeyConstraint("is_only_row", name=op.f("pk_schema_compatibility")),
    )
    op.bulk_insert(schema_compatibility, [{"oldest_code": "0001"}])
    op.create_table(
        "batches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_digest", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_batches_idempotency_key")),
    )
    op.create_table(
        "processes",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_processes")),
    )
    op.create_table(
        "problems",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column("batch_index", sa.Integer(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_digest", sa.Text(), nullable=True),
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
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("pending", postgresql.JSONB(), server_default="[]", nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stop_reason", sa.Text(), nullable=True),
        sa.Column("failure_code", sa.Text(), nullable=True),
        sa.Column("failure_detail", sa.Text(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("small_kept", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("small_discarded", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("small_wasted", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("small_in", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("large_out", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("large_wasted", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("large_in", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("prm", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("small_calls", sa.Integer(), server_default="0", nullable=False),
        sa.Column("large_calls", sa.Integer(), server_default="0", nullable=False),
        sa.Column("prm_calls", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'expired')",
            name=op.f("ck_problems_status"),
        ),
        sa.CheckConstraint(
            "stop_reason IN ('final_answer', 'max_steps', 'token_limit', 'degenerate')",
            name=op.f("ck_problems_stop_reason"),
        ),
        sa.CheckConstraint(
            "verdict IN ('correct', 'incorrect', 'no_answer', 'unverified')", name=op.f("ck_problems_verdict")
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_problems_batch_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_problems")),
        sa.UniqueConstraint("batch_id", "batch_index", name=op.f("uq_problems_batch_id_batch_index")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_problems_idempotency_key")),
    )
    op.create_index(
        "ix_problems_cancelling",
        "problems",
        ["cancel_requested_at"],
        unique=False,
        postgresql_where="cancel_requested_at IS NOT NULL AND status IN ('queued', 'running')",
    )
    op.create_index("ix_problems_created_at_id", "problems", ["created_at", "id"], unique=False)
    op.create_index(
        "ix_problems_deadline",
        "problems",
        ["deadline_at"],
        unique=False,
        postgresql_where="status IN ('queued', 'running')",
    )
    op.create_index("ix_problems_due", "problems", ["due_at"], unique=False, postgresql_where="status = 'running'")
    op.create_index("ix_problems_status_created_at_id", "problems", ["status", "created_at", "id"], unique=False)
    op.create_table(
        "decisions",
        sa.Column("problem_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("compared_with", sa.Double(), nullable=True),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("previous_scores", postgresql.ARRAY(sa.Double()), nullable=False),
        sa.Column("is_final", sa.Boolean(), nullable=False),
        sa.Column("large_tokens", sa.BigInteger(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("draft_id", sa.Uuid(), nullable=True),
        sa.Column("draft_text", sa.Text(), nullable=True),
        sa.Column("draft_finish", sa.Text(), nullable=True),
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
        sa.CheckConstraint("draft_finish IN ('separator', 'ended', 'length')", name=op.f("ck_decisions_draft_finish")),
        sa.ForeignKeyConstraint(["problem_id"], ["problems.id"], name=op.f("fk_decisions_problem_id")),
        sa.PrimaryKeyConstraint("problem_id", "step", name=op.f("pk_decisions")),
    )
    op.create_table(
        "inbox",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("problem_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["problem_id"], ["problems.id"], name=op.f("fk_inbox_problem_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_inbox")),
    )
    op.create_index(op.f("ix_inbox_problem_id"), "inbox", ["problem_id"], unique=False)
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
    op.execute(REFUSE_CHANGE)
    op.execute(DECISIONS_TRIGGER)
    op.execute(AUDIT_VIEW)


def downgrade() -> None:
    """Take back."""
    op.execute("DROP VIEW audit")
    op.drop_table("steps")
    op.drop_index(op.f("ix_inbox_problem_id"), table_name="inbox")
    op.drop_table("inbox")
    op.drop_table("decisions")
    op.drop_index("ix_problems_status_created_at_id", table_name="problems")
    op.drop_index("ix_problems_due", table_name="problems", postgresql_where="status = 'running'")
    op.drop_index("ix_problems_deadline", table_name="problems", postgresql_where="status IN ('queued', 'running')")
    op.drop_index("ix_problems_created_at_id", table_name="problems")
    op.drop_index(
        "ix_problems_cancelling",
        table_name="problems",
        postgresql_where="cancel_requested_at IS NOT NULL AND status IN ('queued', 'running')",
    )
    op.drop_table("problems")
    op.drop_table("processes")
    op.drop_table("batches")
    op.execute("DROP FUNCTION refuse_change()")
    op.drop_table("schema_compatibility")
