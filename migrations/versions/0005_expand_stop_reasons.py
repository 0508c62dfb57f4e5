"""The stop reasons `step_cut` and `repeated`.

The previous version writes neither, and its rows satisfy the new constraint. It cannot read them either: until its api
is replaced, it answers 500 for a problem that ended with one.
"""

from __future__ import annotations

from alembic import op

from migrations import phases

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

REASONS = "'final_answer', 'max_steps', 'token_limit', 'size_limit', 'degenerate'"


def _constrain(reasons: str) -> None:
    # One statement, so a problem is constrained at any time. It holds the table's lock for a moment only, because it
    # checks no row.
    op.execute(f"""
    ALTER TABLE problems
        DROP CONSTRAINT IF EXISTS ck_problems_stop_reason,
        ADD CONSTRAINT ck_problems_stop_reason CHECK (stop_reason IN ({reasons})) NOT VALID
    """)


def upgrade() -> None:
    """Apply."""
    _constrain(f"{REASONS}, 'step_cut', 'repeated'")
    # This reads the whole table, beside running statements: it must not hold the lock of the statement before it.
    with phases.concurrently():
        op.execute("ALTER TABLE problems VALIDATE CONSTRAINT ck_problems_stop_reason")


def downgrade() -> None:
    """Take back: the nearest reasons replace the new ones, because older code reads no others."""
    op.execute("UPDATE problems SET stop_reason = 'token_limit' WHERE stop_reason = 'step_cut'")
    op.execute("UPDATE problems SET stop_reason = 'degenerate' WHERE stop_reason = 'repeated'")
    _constrain(REASONS)
    op.execute("ALTER TABLE problems VALIDATE CONSTRAINT ck_problems_stop_reason")
