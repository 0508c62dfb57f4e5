"""Arms of a split, and what shadows decide.

The previous version writes neither: its problems have no arm and no shadows. Its orchestrators ignore the shadows of
newer problems, so the decisions that they take have no rows in `shadow_decisions`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

REFUSE_EVERY_CHANGE = """
CREATE FUNCTION refuse_every_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$
"""

SHADOW_DECISIONS_APPEND_ONLY = """
CREATE TRIGGER shadow_decisions_append_only BEFORE UPDATE OR DELETE ON shadow_decisions
FOR EACH ROW EXECUTE FUNCTION refuse_every_change()
"""

SHADOW_DECISIONS_NEVER_TRUNCATED = """
CREATE TRIGGER shadow_decisions_never_truncated BEFORE TRUNCATE ON shadow_decisions
FOR EACH STATEMENT EXECUTE FUNCTION refuse_every_change()
"""


def upgrade() -> None:
    """Apply."""
    op.add_column("problems", sa.Column("arm", sa.Text(), nullable=True))
    op.add_column("problems", sa.Column("shadows", postgresql.JSONB(), nullable=False, server_default="[]"))
    op.create_table(
        "shadow_decisions",
        sa.Column("problem_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("shadow", sa.SmallInteger(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("policy_revision", sa.Integer(), nullable=False),
        sa.Column("policy_digest", sa.Text(), nullable=False),
        sa.Column("policy_version", sa.Integer(), nullable=True),
        sa.Column("action", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("compared_with", sa.Double(), nullable=True),
        sa.Column("numbers", postgresql.JSONB(), server_default="{}", nullable=False),
        sa.Column("propensity", sa.Double(), nullable=True),
        sa.Column("agrees", sa.Boolean(), nullable=True),
        sa.Column("skipped", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.CheckConstraint("action IN ('accept', 'escalate')", name=op.f("ck_shadow_decisions_action")),
        sa.CheckConstraint(
            "skipped IN ('no_draft', 'models_differ', 'no_time', 'unusable', 'crashed')",
            name=op.f("ck_shadow_decisions_skipped"),
        ),
        sa.CheckConstraint("num_nonnulls(action, skipped) = 1", name=op.f("ck_shadow_decisions_one_outcome")),
        sa.ForeignKeyConstraint(["problem_id"], ["problems.id"], name=op.f("fk_shadow_decisions_problem_id")),
        sa.PrimaryKeyConstraint("problem_id", "number", "shadow", "decided_at", name=op.f("pk_shadow_decisions")),
    )
    op.execute(REFUSE_EVERY_CHANGE)
    op.execute(SHADOW_DECISIONS_APPEND_ONLY)
    op.execute(SHADOW_DECISIONS_NEVER_TRUNCATED)


def downgrade() -> None:
    """Take back."""
    op.drop_table("shadow_decisions")
    # Months that were detached still have triggers that call it.
    op.execute("DROP FUNCTION refuse_every_change CASCADE")
    op.drop_column("problems", "shadows")
    op.drop_column("problems", "arm")
