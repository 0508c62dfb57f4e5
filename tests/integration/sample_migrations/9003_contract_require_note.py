"""Sample: the column must be set, which code before 9001 does not do."""

from __future__ import annotations

from alembic import op

from migrations import phases

revision = "9003"
down_revision = "9002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    phases.retire_code_before("9001")
    op.execute("ALTER TABLE problems ADD CONSTRAINT note_is_set CHECK (note IS NOT NULL) NOT VALID")


def downgrade() -> None:
    op.execute("ALTER TABLE problems DROP CONSTRAINT note_is_set")
    phases.retire_code_before("0001")
