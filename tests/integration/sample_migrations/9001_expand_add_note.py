"""Sample: a nullable column. Running code does not read or write it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shared.store.compatibility import REVISION

revision = "9001"
down_revision = REVISION
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("problems", sa.Column("note", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("problems", "note")
