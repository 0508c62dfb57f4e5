"""An index for listing the problems of an arm; it holds only problems that have one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations import phases

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    with phases.concurrently():
        op.drop_index("ix_problems_tenant_id_arm_id", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            "ix_problems_tenant_id_arm_id",
            "problems",
            ["tenant_id", "arm", "id"],
            postgresql_where=sa.text("arm IS NOT NULL"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_problems_tenant_id_arm_id")
