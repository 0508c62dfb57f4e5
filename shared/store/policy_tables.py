"""The table of the versions of fitted policies."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.store.tables import Base


class PolicyVersionRow(Base):
    """One artefact of a policy. A trigger refuses every change but to its last two columns."""

    __tablename__ = "policy_versions"
    __table_args__ = (
        Index(
            "ux_policy_versions_default",
            "policy",
            "small_model",
            "large_model",
            "prm_model",
            unique=True,
            postgresql_where=text("is_default"),
        ),
    )

    policy: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    """Number of the artefact among those of the policy, from 1."""
    digest: Mapped[str] = mapped_column(unique=True)
    card: Mapped[dict[str, Any]]
    arrays: Mapped[bytes] = mapped_column(deferred=True)
    small_model: Mapped[str]
    large_model: Mapped[str]
    prm_model: Mapped[str]
    registered_at: Mapped[datetime] = mapped_column(server_default=func.now())
    is_default: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether submissions without a version get it, where its models run."""
    retired_at: Mapped[datetime | None]
    """When it was withdrawn from new submissions."""
