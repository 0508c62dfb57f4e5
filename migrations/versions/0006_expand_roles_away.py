"""What workers report of their fitness and their clocks, and the roles that a problem knows to be away.

The previous version neither writes nor reads these columns: its problems wait for no role.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

PROCESS_COLUMNS: dict[str, TypeEngine[Any]] = {
    "unfit_code": sa.Text(),
    "unfit_detail": sa.Text(),
    "unfit_since": sa.DateTime(timezone=True),
    "clock_ahead_s": sa.Double(),
}


def upgrade() -> None:
    """Apply."""
    # The default is constant, so no row is rewritten.
    op.add_column("problems", sa.Column("absences", JSONB(), nullable=False, server_default="{}"))
    for name, kind in PROCESS_COLUMNS.items():
        op.add_column("processes", sa.Column(name, kind, nullable=True))


def downgrade() -> None:
    """Take back; the previous version requests the steps of problems that wait as overdue ones."""
    op.execute("UPDATE problems SET due_at = now() WHERE status = 'running' AND due_at IS NULL")
    for name in reversed(PROCESS_COLUMNS):
        op.drop_column("processes", name)
    op.drop_column("problems", "absences")
