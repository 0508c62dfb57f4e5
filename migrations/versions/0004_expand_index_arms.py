"""Indexes for listing the problems of an arm; they hold only problems that have one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations import phases

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_problems_tenant_id_arm_id_policy": ["tenant_id", "arm", "id", "policy"],
    "ix_problems_tenant_id_arm_status_id_policy": ["tenant_id", "arm", "status", "id", "policy"],
}


def upgrade() -> None:
    """Apply."""
    with phases.concurrently():
        for name, columns in INDEXES.items():
            op.drop_index(name, if_exists=True, postgresql_concurrently=True)
            op.create_index(
                name,
                "problems",
                columns,
                postgresql_where=sa.text("arm IS NOT NULL"),
                postgresql_concurrently=True,
            )


def downgrade() -> None:
    """Take back."""
    for name in INDEXES:
        op.drop_index(name)
