"""Which workers add the steps that commands leave out.

The previous version's workers do not, and never report that they do.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    # The default is constant, so no row is rewritten.
    op.add_column("processes", sa.Column("completes_prefixes", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Take back."""
    op.drop_column("processes", "completes_prefixes")
