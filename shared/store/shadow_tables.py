"""The table of what shadows decided."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, PrimaryKeyConstraint, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from shared.domain.decisions import Action
from shared.domain.shadows import Skip
from shared.store.tables import Base, one_of


class ShadowDecisionRow(Base):
    """What one shadow decided beside one row of `decisions`. A trigger refuses every change; it holds no text."""

    __tablename__ = "shadow_decisions"
    __table_args__ = (
        # As for `decisions`: the table can be partitioned by `decided_at`. No foreign key refers to `decisions`: it
        # would follow that table into its first partition.
        PrimaryKeyConstraint("problem_id", "number", "shadow", "decided_at"),
        one_of("action", Action),
        one_of("skipped", Skip),
        CheckConstraint("num_nonnulls(action, skipped) = 1", name="one_outcome"),
    )

    problem_id: Mapped[UUID] = mapped_column(ForeignKey("problems.id"))
    number: Mapped[int]
    """Number of the decision of the policy."""
    shadow: Mapped[int] = mapped_column(SmallInteger)
    """Place among `problems.shadows`, from 0."""
    decided_at: Mapped[datetime]
    """That of the decision of the policy."""

    policy: Mapped[str]
    policy_revision: Mapped[int]
    policy_digest: Mapped[str]
    policy_version: Mapped[int | None]

    action: Mapped[str | None]
    reason: Mapped[str | None]
    value: Mapped[float | None]
    compared_with: Mapped[float | None]
    numbers: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    propensity: Mapped[float | None]
    agrees: Mapped[bool | None]
    """Whether it is the action that was taken; null if the shadow was skipped."""

    skipped: Mapped[str | None]
    """Why there is no action, as `shared.domain.shadows.Skip` describes it."""
    detail: Mapped[str | None]
    """That in one sentence."""
