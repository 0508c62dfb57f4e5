"""Wrappers of policies, and what decisions rest on in more detail.

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


def upgrade() -> None:
    """Apply."""
    op.add_column("problems", sa.Column("policy_wrappers", postgresql.JSONB(), nullable=False, server_default="{}"))
    op.add_column("decisions", sa.Column("numbers", postgresql.JSONB(), nullable=False, server_default="{}"))
    op.add_column("decisions", sa.Column("propensity", sa.Double(), nullable=False, server_default="1"))
    op.execute("CREATE OR REPLACE " + AUDIT.format(more=",\n    d.numbers, d.propensity, p.policy_wrappers").lstrip())


def downgrade() -> None:
    """Take back."""
    op.execute("DROP VIEW audit")
    op.execute("CREATE " + AUDIT.format(more="").lstrip())
    op.drop_column("decisions", "propensity")
    op.drop_column("decisions", "numbers")
    op.drop_column("problems", "policy_wrappers")
