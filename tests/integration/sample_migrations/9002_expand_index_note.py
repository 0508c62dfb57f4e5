"""Sample: an index that is built beside running code."""

from __future__ import annotations

from alembic import op

from migrations import phases

revision = "9002"
down_revision = "9001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with phases.concurrently():
        op.drop_index("ix_problems_note", if_exists=True, postgresql_concurrently=True)
        op.create_index("ix_problems_note", "problems", ["note"], postgresql_concurrently=True)


def downgrade() -> None:
    with phases.concurrently():
        op.drop_index("ix_problems_note", if_exists=True, postgresql_concurrently=True)
