"""Tokens of decided drafts and of their scorings that a server did not count.

The previous version neither writes nor reads the columns; the decisions that it stores have null in them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

COLUMNS = ("draft_estimated_tokens", "prm_estimated_tokens")

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
    s.accepted_at AS step_accepted_at,
    d.numbers, d.propensity, p.policy_wrappers, d.policy_version,
    s.estimated_tokens AS step_estimated_tokens{more}
FROM decisions d
JOIN problems p ON p.id = d.problem_id
LEFT JOIN steps s ON s.problem_id = d.problem_id AND s.step = d.step
"""


def upgrade() -> None:
    """Apply."""
    for name in COLUMNS:
        op.add_column("decisions", sa.Column(name, sa.Integer(), nullable=True))
    op.execute("CREATE OR REPLACE " + AUDIT.format(more="".join(f", d.{name}" for name in COLUMNS)))


def downgrade() -> None:
    """Take back."""
    op.execute("DROP VIEW audit")
    op.execute("CREATE " + AUDIT.format(more=""))
    for name in COLUMNS:
        op.drop_column("decisions", name)
