"""Versions and wrappers of policies, and what decisions rest on in more detail.

The previous version writes neither: its rows get the defaults. The view gains columns at its end, and running code
names the columns that it reads.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

AUDIT = """
VIEW audit AS
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
    s.accepted_at AS step_accepted_at{more}
FROM decisions d
JOIN problems p ON p.id = d.problem_id
LEFT JOIN steps s ON s.problem_id = d.problem_id AND s.step = d.step
"""

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

POLICY_VERSIONS_IMMUTABLE = """
CREATE TRIGGER policy_versions_immutable BEFORE UPDATE OR DELETE ON policy_versions
FOR EACH ROW EXECUTE FUNCTION refuse_policy_change()
"""

POLICY_VERSIONS_NEVER_TRUNCATED = """
CREATE TRIGGER policy_versions_never_truncated BEFORE TRUNCATE ON policy_versions
FOR EACH STATEMENT EXECUTE FUNCTION refuse_policy_change()
"""


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "policy_versions",
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("card", postgresql.JSONB(), nullable=False),
        sa.Column("arrays", sa.LargeBinary(), nullable=False),
        sa.Column("small_model", sa.Text(), nullable=False),
        sa.Column("large_model", sa.Text(), nullable=False),
        sa.Column("prm_model", sa.Text(), nullable=False),
        sa.Column("registered_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("is_default", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("policy", "version", name="pk_policy_versions"),
        sa.UniqueConstraint("digest", name="uq_policy_versions_digest"),
    )
    op.create_index(
        "ux_policy_versions_default",
        "policy_versions",
        ["policy", "small_model", "large_model", "prm_model"],
        unique=True,
        postgresql_where=sa.text("is_default"),
    )
    op.execute(REFUSE_POLICY_CHANGE)
    op.execute(POLICY_VERSIONS_IMMUTABLE)
    op.execute(POLICY_VERSIONS_NEVER_TRUNCATED)
    op.add_column("problems", sa.Column("policy_version", sa.Integer(), nullable=True))
    op.add_column("decisions", sa.Column("policy_version", sa.Integer(), nullable=True))
    op.add_column("problems", sa.Column("policy_wrappers", postgresql.JSONB(), nullable=False, server_default="{}"))
    op.add_column("decisions", sa.Column("numbers", postgresql.JSONB(), nullable=False, server_default="{}"))
    op.add_column("decisions", sa.Column("propensity", sa.Double(), nullable=False, server_default="1"))
    more = ",\n    d.numbers, d.propensity, p.policy_wrappers, d.policy_version"
    op.execute("CREATE OR REPLACE " + AUDIT.format(more=more).lstrip())


def downgrade() -> None:
    """Take back."""
    op.execute("DROP VIEW audit")
    op.execute("CREATE " + AUDIT.format(more="").lstrip())
    op.drop_column("decisions", "propensity")
    op.drop_column("decisions", "numbers")
    op.drop_column("problems", "policy_wrappers")
    op.drop_column("decisions", "policy_version")
    op.drop_column("problems", "policy_version")
    op.drop_table("policy_versions")
    op.execute("DROP FUNCTION refuse_policy_change")
