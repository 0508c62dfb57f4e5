"""What many problems at once need: indexes and a column for listing and cancelling batches, and the feed of changes.

The previous version does not use them. It records no changes, so the feed is complete once no process of it runs.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations import phases

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

OF_TENANT = "ix_batches_tenant_id_id"
OPEN_OF_BATCH = "ix_problems_open_of_batch"


def upgrade() -> None:
    """Apply."""
    op.add_column("batches", sa.Column("cancel_requested_at", sa.DateTime(timezone=True)), if_not_exists=True)
    op.create_table(
        "changes",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column(
            "transaction_id",
            sa.BigInteger(),
            server_default=sa.text("(pg_current_xact_id()::text)::bigint"),
            nullable=False,
        ),
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("problem_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'expired')",
            name=op.f("ck_changes_status"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "transaction_id", "number", name=op.f("pk_changes")),
        if_not_exists=True,
    )
    op.create_index("ix_changes_changed_at", "changes", ["changed_at"], if_not_exists=True)
    with phases.concurrently():
        op.drop_index(OF_TENANT, if_exists=True, postgresql_concurrently=True)
        op.create_index(OF_TENANT, "batches", ["tenant_id", "id"], postgresql_concurrently=True)
        op.drop_index(OPEN_OF_BATCH, if_exists=True, postgresql_concurrently=True)
        op.create_index(
            OPEN_OF_BATCH,
            "problems",
            ["batch_id", "id"],
            postgresql_where=sa.text("batch_id IS NOT NULL AND status IN ('queued', 'running')"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    """Take back."""
    op.drop_table("changes")
    op.drop_index(OPEN_OF_BATCH)
    op.drop_index(OF_TENANT)
    op.drop_column("batches", "cancel_requested_at")
