"""The tables. `migrations/` creates them; a test holds the two against each other."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.domain.decisions import Action
from shared.domain.drafts import Finish
from shared.domain.roles import Author
from shared.domain.status import Status, StopReason
from shared.domain.verdict import Verdict


class Base(DeclarativeBase):
    """Names every constraint by rule, so that migrations can name them too."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it as a plain class attribute
        str: Text(),
        float: Double(),
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(),
        list[Any]: JSONB(),
        list[float]: ARRAY(Double()),
    }


def _one_of(column: str, values: type[Status | Author | Action | Finish | StopReason | Verdict]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


class Batch(Base):
    """Problems that were submitted together."""

    __tablename__ = "batches"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    size: Mapped[int]
    idempotency_key: Mapped[str | None] = mapped_column(unique=True)
    request_digest: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Problem(Base):
    """One problem: what was asked, where it stands, what it cost."""

    __tablename__ = "problems"
    __table_args__ = (
        _one_of("status", Status),
        _one_of("stop_reason", StopReason),
        _one_of("verdict", Verdict),
        UniqueConstraint("batch_id", "batch_index"),
        Index("ix_problems_created_at_id", "created_at", "id"),
        Index("ix_problems_status_created_at_id", "status", "created_at", "id"),
        Index("ix_problems_deadline", "deadline_at", postgresql_where="status IN ('queued', 'running')"),
        Index(
            "ix_problems_cancelling",
            "cancel_requested_at",
            postgresql_where="cancel_requested_at IS NOT NULL AND status IN ('queued', 'running')",
        ),
        # Every step updates the row. No index holds a column that changes with it (`due_at` has none: overdue problems
        # are looked for among the running ones, which the window bounds), and a page has room for a new version: so
        # Postgres keeps the update within the page and touches no index.
        {"postgresql_with": {"fillfactor": 70}},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    batch_id: Mapped[UUID | None] = mapped_column(ForeignKey("batches.id"))
    batch_index: Mapped[int | None]
    idempotency_key: Mapped[str | None] = mapped_column(unique=True)
    request_digest: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    # What was asked: never changed after submission.
    question: Mapped[str]
    reference: Mapped[str | None]
    policy: Mapped[str]
    policy_revision: Mapped[int]
    policy_parameters: Mapped[dict[str, Any]]
    options: Mapped[dict[str, Any]]
    deadline_at: Mapped[datetime | None]

    # Where it stands: written by orchestrators only, but for the request to cancel.
    status: Mapped[str] = mapped_column(server_default="queued")
    cancel_requested_at: Mapped[datetime | None]
    epoch: Mapped[int] = mapped_column(server_default="0")
    ask: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    asks: Mapped[int] = mapped_column(server_default="0")
    oldest_request: Mapped[int] = mapped_column(server_default="0")
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    pending: Mapped[list[Any]] = mapped_column(server_default="[]")
    due_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    # How it ended.
    stop_reason: Mapped[str | None]
    failure_code: Mapped[str | None]
    failure_detail: Mapped[str | None]
    answer: Mapped[str | None]
    verdict: Mapped[str | None]

    # What it cost: tokens and calls, as `shared.domain.values.Ledger` describes them.
    small_kept: Mapped[int] = mapped_column(BigInteger, server_default="0")
    small_discarded: Mapped[int] = mapped_column(BigInteger, server_default="0")
    small_wasted: Mapped[int] = mapped_column(BigInteger, server_default="0")
    small_in: Mapped[int] = mapped_column(BigInteger, server_default="0")
    large_out: Mapped[int] = mapped_column(BigInteger, server_default="0")
    large_wasted: Mapped[int] = mapped_column(BigInteger, server_default="0")
    large_in: Mapped[int] = mapped_column(BigInteger, server_default="0")
    prm: Mapped[int] = mapped_column(BigInteger, server_default="0")
    small_calls: Mapped[int] = mapped_column(server_default="0")
    large_calls: Mapped[int] = mapped_column(server_default="0")
    prm_calls: Mapped[int] = mapped_column(server_default="0")


class StepRow(Base):
    """One accepted step of a trajectory."""

    __tablename__ = "steps"
    __table_args__ = (_one_of("author", Author), _one_of("finish", Finish))

    problem_id: Mapped[UUID] = mapped_column(ForeignKey("problems.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    author: Mapped[str]
    text: Mapped[str]
    finish: Mapped[str]
    tokens: Mapped[int]
    score: Mapped[float | None]
    model: Mapped[str]
    worker: Mapped[str]
    waited_ms: Mapped[float]
    worked_ms: Mapped[float]
    accepted_at: Mapped[datetime]


class DecisionRow(Base):
    """One decision: append-only, enforced by a trigger."""

    __tablename__ = "decisions"
    __table_args__ = (
        _one_of("action", Action),
        _one_of("draft_finish", Finish),
        ForeignKeyConstraint(["problem_id"], ["problems.id"]),
    )

    problem_id: Mapped[UUID] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int]
    decided_at: Mapped[datetime]

    # What was chosen and why.
    action: Mapped[str]
    reason: Mapped[str]
    value: Mapped[float | None]
    compared_with: Mapped[float | None]

    # What the policy saw.
    score: Mapped[float | None]
    previous_scores: Mapped[list[float]]
    is_final: Mapped[bool]
    large_tokens: Mapped[int] = mapped_column(BigInteger)
    seed: Mapped[int] = mapped_column(BigInteger)

    # The draft that it was about, and how it was made.
    draft_id: Mapped[UUID | None]
    draft_text: Mapped[str | None]
    draft_finish: Mapped[str | None]
    draft_tokens: Mapped[int | None]
    draft_prompt_tokens: Mapped[int | None]
    draft_cached_tokens: Mapped[int | None]
    draft_model: Mapped[str | None]
    draft_worker: Mapped[str | None]
    draft_waited_ms: Mapped[float | None]
    draft_worked_ms: Mapped[float | None]

    # How it was scored.
    prm_model: Mapped[str | None]
    prm_worker: Mapped[str | None]
    prm_tokens: Mapped[int | None]
    prm_waited_ms: Mapped[float | None]
    prm_worked_ms: Mapped[float | None]


class InboxRow(Base):
    """Id of a draft or an event that is in a problem's ledger, so that it is booked once."""

    __tablename__ = "inbox"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    problem_id: Mapped[UUID] = mapped_column(ForeignKey("problems.id"), index=True)


class Process(Base):
    """A process of the service that was heard of."""

    __tablename__ = "processes"

    name: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]
    model: Mapped[str | None]
    seen_at: Mapped[datetime]
