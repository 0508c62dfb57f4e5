"""The tables of who may use the API: tenants, their keys, and how many requests they have sent."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, Index, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from shared.domain.scopes import Scope
from shared.store.tables import Base

LIMITS: Final = ("requests_per_minute", "max_queued", "max_running")
"""Columns of a tenant's limits; null is the deployment's default."""


class TenantRow(Base):
    """An account: problems, batches and keys belong to one. The id 0 is the default tenant."""

    __tablename__ = "tenants"
    __table_args__ = tuple(CheckConstraint(f"{name} > 0", name=name) for name in LIMITS)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    requests_per_minute: Mapped[int | None]
    max_queued: Mapped[int | None]
    max_running: Mapped[int | None]


class KeyRow(Base):
    """A key of the API. Of its text, only the prefix and a hash are stored."""

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint(
            f"scopes <@ ARRAY[{', '.join(repr(each.value) for each in Scope)}] AND cardinality(scopes) > 0",
            name="scopes",
        ),
        CheckConstraint("octet_length(secret_hash) = 32", name="secret_hash"),
        # Ids are UUIDv7: their order is the order of creation.
        Index("ix_api_keys_tenant_id_id", "tenant_id", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)
    secret_hash: Mapped[bytes]
    """SHA-256 of the key's text."""
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text()))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    """Exact to about a minute."""
    revoked_at: Mapped[datetime | None]
    replaces: Mapped[UUID | None] = mapped_column(ForeignKey("api_keys.id"))
    """The key whose rotation made this one."""


class RequestCount(Base):
    """Number of requests that a tenant has sent in the last minute in which it sent any."""

    __tablename__ = "request_counts"

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    minute: Mapped[datetime]
    """Begin of the minute."""
    requests: Mapped[int]
