"""Updates of a problem touch no index; asks that were given up are remembered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("problems", sa.Column("oldest_request", sa.Integer(), server_default="0", nullable=False))
    op.drop_index("ix_problems_due", table_name="problems", postgresql_where="status = 'running'")
    op.execute("ALTER TABLE problems SET (fillfactor = 70)")


def downgrade() -> None:
    """Take back."""
    op.execute("ALTER TABLE problems RESET (fillfactor)")
    op.create_index("ix_problems_due", "problems", ["due_at"], unique=False, postgresql_where="status = 'running'")
    op.drop_column("problems", "oldest_request")
