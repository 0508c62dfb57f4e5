"""An index of queued problems by what their plans need, for admission while a role is away.

The previous version does not use it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations import phases

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

NAME = "ix_problems_queued_plan"
COLUMNS: list[str | sa.TextClause] = [
    "tenant_id",
    sa.text("(options #>> '{plan,drafts}')"),
    sa.text("(options #>> '{plan,scores}')"),
    sa.text("(options #>> '{plan,escalates}')"),
    sa.text("(options ? 'bridging')"),
    "id",
]


def upgrade() -> None:
    """Apply."""
    with phases.concurrently():
        op.drop_index(NAME, if_exists=True, postgresql_concurrently=True)
        op.create_index(
            NAME, "problems", [*COLUMNS], postgresql_where=sa.text("status = 'queued'"), postgresql_concurrently=True
        )


def downgrade() -> None:
    """Take back."""
    op.drop_index(NAME)
