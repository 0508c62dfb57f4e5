"""Tenants, their keys, and how many requests they have sent.

The previous version neither writes nor reads these tables: all its rows belong to the default tenant, whose id is 0.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

LIMITS = ("requests_per_minute", "max_queued", "max_running")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "tenants",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=True) for name in LIMITS),
        *(sa.CheckConstraint(f"{name} > 0", name=op.f(f"ck_tenants_{name}")) for name in LIMITS),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
        sa.UniqueConstraint("name", name=op.f("uq_tenants_name")),
    )
    op.execute("INSERT INTO tenants (id, name) VALUES ('00000000-0000-0000-0000-000000000000', 'default')")
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("replaces", sa.Uuid(), nullable=True),
        sa.CheckConstraint(
            "scopes <@ ARRAY['submit', 'read', 'admin'] AND cardinality(scopes) > 0", name=op.f("ck_api_keys_scopes")
        ),
        sa.CheckConstraint("octet_length(secret_hash) = 32", name=op.f("ck_api_keys_secret_hash")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_api_keys_tenant_id")),
        sa.ForeignKeyConstraint(["replaces"], ["api_keys.id"], name=op.f("fk_api_keys_replaces")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("prefix", name=op.f("uq_api_keys_prefix")),
    )
    op.create_index("ix_api_keys_tenant_id_id", "api_keys", ["tenant_id", "id"])
    op.create_table(
        "request_counts",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("minute", sa.DateTime(timezone=True), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_request_counts_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_request_counts")),
    )


def downgrade() -> None:
    """Take back. Keys are lost, and so is which tenant is which; problems keep the tenant's id."""
    for table in ("request_counts", "api_keys", "tenants"):
        op.drop_table(table)
