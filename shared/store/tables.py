"""The tables and the view `audit`. `migrations/` creates them; `python -m migrations check` compares the two."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, query_expression

from shared.domain.decisions import Action, DecidedBy
from shared.domain.drafts import Finish
from shared.domain.roles import Author
from shared.domain.status import Status, StopReason
from shared.domain.verdict import Verdict

DEFAULT_TENANT: Final = UUID(int=0)
"""Tenant of requests without a key, where none is needed."""

_TYPES: Final[dict[Any, Any]] = {
    str: Text(),
    float: Double(),
    datetime: DateTime(timezone=True),
    dict[str, Any]: JSONB(),
    list[Any]: JSONB(),
}

_IS_OPEN = "status IN ('queued', 'running')"
_HAS_ARM = text("arm IS NOT NULL")
_IS_QUEUED = text("status = 'queued'")

QUEUED_PLAN: Final = (
    *(f"(options #>> '{{plan,{each}}}')" for each in ("drafts", "scores", "escalates")),
    "(options ? 'bridging')",
)
"""What admission reads of queued problems while a role is away: those that cannot start, it never reads."""


class Base(DeclarativeBase):
    """Base class of tables. Constraints are named by rule, so that migrations can name them too."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = _TYPES


class _View(DeclarativeBase):
    """Base class of views. Their metadata is separate because `shared/store/views_and_triggers.py` creates them."""

    type_annotation_map = _TYPES


def one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    """Constrain a column to the values of an enumeration."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def _tenant() -> Mapped[UUID]:
    return mapped_column(server_default=str(DEFAULT_TENANT))


class Batch(Base):
    """Problems that were submitted together."""

    __tablename__ = "batches"
    __table_args__ = (Index("ix_batches_tenant_id_id", "tenant_id", "id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID] = _tenant()
    size: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    cancel_requested_at: Mapped[datetime | None]


class IdempotencyKey(Base):
    """The result of a submission with an Idempotency-Key. Both endpoints share a tenant's keys."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "key"),
        CheckConstraint("num_nonnulls(problem_id, batch_id) = 1", name="one_result"),
        Index("ix_idempotency_keys_created_at", "created_at"),
    )

    tenant_id: Mapped[UUID] = _tenant()
    key: Mapped[str]
    request_digest: Mapped[str]
    # The key is inserted before its result, so these are checked at commit.
    problem_id: Mapped[UUID | None] = mapped_column(ForeignKey("problems.id", deferrable=True, initially="DEFERRED"))
    batch_id: Mapped[UUID | None] = mapped_column(ForeignKey("batches.id", deferrable=True, initially="DEFERRED"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Problem(Base):
    """One problem: the question, its reasoning state, its result, its cost."""

    __tablename__ = "problems"
    __table_args__ = (
        one_of("status", Status),
        one_of("stop_reason", StopReason),
        one_of("verdict", Verdict),
        UniqueConstraint("batch_id", "batch_index"),
        # Ids are UUIDv7: their order is the order of submission.
        Index("ix_problems_tenant_id_id", "tenant_id", "id"),
        Index("ix_problems_tenant_id_status_id", "tenant_id", "status", "id"),
        Index("ix_problems_tenant_id_policy_id", "tenant_id", "policy", "id"),
        Index("ix_problems_tenant_id_policy_status_id", "tenant_id", "policy", "status", "id"),
        # An arm usually has one policy, so the policy comes last: it is compared in the index, and orders nothing.
        Index("ix_problems_tenant_id_arm_id_policy", "tenant_id", "arm", "id", "policy", postgresql_where=_HAS_ARM),
        Index("ix_problems_tenant_id_arm_status_id_policy", "tenant_id", "arm", "status", "id", "policy",
              postgresql_where=_HAS_ARM),
        Index("ix_problems_queued", "tenant_id", "id", postgresql_where=_IS_QUEUED),
        Index("ix_problems_queued_plan", "tenant_id", *map(text, QUEUED_PLAN), "id", postgresql_where=_IS_QUEUED),
        Index("ix_problems_open_of_batch", "batch_id", "id",
              postgresql_where=text(f"batch_id IS NOT NULL AND {_IS_OPEN}")),
        Index("ix_problems_running", "tenant_id", postgresql_where=text("status = 'running'")),
        Index("ix_problems_deadline", "deadline_at", postgresql_where=text(f"deadline_at IS NOT NULL AND {_IS_OPEN}")),
        Index(
            "ix_problems_cancelling",
            "cancel_requested_at",
            postgresql_where=text(f"cancel_requested_at IS NOT NULL AND {_IS_OPEN}"),
        ),
        Index(
            "ix_problems_unpruned",
            "finished_at",
            postgresql_where=text("finished_at IS NOT NULL AND NOT is_inbox_pruned"),
        ),
        # Every step updates the row. Postgres keeps such an update within the page and touches no index if no index
        # holds a changed column and the page has room. So no index holds a column that changes with a step (overdue
        # problems are searched among the running ones, which the window bounds), and pages are filled to 70 %.
        {"postgresql_with": {"fillfactor": 70}},
    )  # fmt: skip

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID] = _tenant()
    batch_id: Mapped[UUID | None] = mapped_column(ForeignKey("batches.id"))
    batch_index: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    # The submission. Only an erasure changes it.
    question: Mapped[str]
    reference: Mapped[str | None]
    policy: Mapped[str]
    policy_revision: Mapped[int]
    policy_parameters: Mapped[dict[str, Any]]
    policy_version: Mapped[int | None]
    policy_wrappers: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    arm: Mapped[str | None]
    """Name of the arm that was drawn, if the submitter chose a split."""
    shadows: Mapped[list[Any]] = mapped_column(server_default="[]")
    options: Mapped[dict[str, Any]]
    deadline_at: Mapped[datetime | None]

    # The reasoning state. Orchestrators write it; the api writes `cancel_requested_at`.
    status: Mapped[str] = mapped_column(server_default="queued")
    cancel_requested_at: Mapped[datetime | None]
    epoch: Mapped[int] = mapped_column(server_default="0")
    request: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    request_count: Mapped[int] = mapped_column(server_default="0")
    oldest_request: Mapped[int] = mapped_column(server_default="0")
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    pending: Mapped[list[Any]] = mapped_column(server_default="[]")
    due_at: Mapped[datetime | None]
    absences: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    """The roles that it knows to be away, by name; `shared.machine.state.Absence` describes each."""
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    step_count: Mapped[int] = mapped_column(server_default="0")
    escalation_count: Mapped[int] = mapped_column(server_default="0")
    decision_count: Mapped[int] = mapped_column(server_default="0")

    # The result.
    stop_reason: Mapped[str | None]
    failure_code: Mapped[str | None]
    failure_detail: Mapped[str | None]
    answer: Mapped[str | None]
    verdict: Mapped[str | None]

    # The cost, as `shared.domain.ledger.Ledger` describes it.
    small_kept: Mapped[int] = mapped_column(BigInteger, server_default="0")
    small_discarded: Mapped[int] = mapped_column(BigInteger, server_default="0")
    small_wasted: Mapped[int] = mapped_column(BigInteger, server_default="0")
    small_estimated: Mapped[int] = mapped_column(BigInteger, server_default="0")
    small_in: Mapped[int] = mapped_column(BigInteger, server_default="0")
    large_out: Mapped[int] = mapped_column(BigInteger, server_default="0")
    large_wasted: Mapped[int] = mapped_column(BigInteger, server_default="0")
    large_estimated: Mapped[int] = mapped_column(BigInteger, server_default="0")
    large_in: Mapped[int] = mapped_column(BigInteger, server_default="0")
    prm_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    prm_estimated: Mapped[int] = mapped_column(BigInteger, server_default="0")
    small_calls: Mapped[int] = mapped_column(server_default="0")
    large_calls: Mapped[int] = mapped_column(server_default="0")
    prm_calls: Mapped[int] = mapped_column(server_default="0")

    # Retention.
    is_inbox_pruned: Mapped[bool] = mapped_column(server_default=text("false"))
    erased_at: Mapped[datetime | None]
    """When `erase_problem` removed the problem's texts."""

    models: Mapped[list[Any] | None] = query_expression()
    """Models that wrote its first and its last step; not stored, but read by the queries that show a problem."""


class StepRow(Base):
    """One accepted step of a trajectory."""

    __tablename__ = "steps"
    __table_args__ = (one_of("author", Author), one_of("finish", Finish))

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
    estimated_tokens: Mapped[int] = mapped_column(server_default="0")


class _Decision:
    """The columns that `decisions` and `audit` share."""

    step: Mapped[int]
    epoch: Mapped[int]
    decided_by: Mapped[str]
    policy: Mapped[str]
    """The policy in force in the process that decided, also where a rule decided."""
    policy_revision: Mapped[int]
    policy_digest: Mapped[str]
    policy_version: Mapped[int | None]

    action: Mapped[str]
    reason: Mapped[str]
    value: Mapped[float | None]
    compared_with: Mapped[float | None]
    numbers: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    propensity: Mapped[float] = mapped_column(server_default="1")
    observation: Mapped[dict[str, Any]]
    """All that the policy saw, as `shared.domain.decisions.Observation` describes it."""

    draft_id: Mapped[UUID | None]
    draft_text: Mapped[str | None]
    draft_finish: Mapped[str | None]
    draft_prefix_digest: Mapped[str | None]
    draft_tokens: Mapped[int | None]
    draft_prompt_tokens: Mapped[int | None]
    draft_cached_tokens: Mapped[int | None]
    draft_model: Mapped[str | None]
    draft_worker: Mapped[str | None]
    draft_waited_ms: Mapped[float | None]
    draft_worked_ms: Mapped[float | None]

    prm_model: Mapped[str | None]
    prm_worker: Mapped[str | None]
    prm_tokens: Mapped[int | None]
    prm_waited_ms: Mapped[float | None]
    prm_worked_ms: Mapped[float | None]

    draft_estimated_tokens: Mapped[int | None]
    """Null without a draft, and in rows of versions before the column; the same for the PRM's."""
    prm_estimated_tokens: Mapped[int | None]


class DecisionRow(_Decision, Base):
    """One decision. A trigger refuses every change but the erasure of its text."""

    __tablename__ = "decisions"
    __table_args__ = (
        # `decided_at` is in the key so that the table can be partitioned by it. So the key would accept a number again
        # at another time. Writers of decisions prevent that: they hold the lock on the row of the problem.
        PrimaryKeyConstraint("problem_id", "number", "decided_at"),
        one_of("action", Action),
        one_of("decided_by", DecidedBy),
        one_of("draft_finish", Finish),
    )

    problem_id: Mapped[UUID] = mapped_column(ForeignKey("problems.id"))
    number: Mapped[int]
    """Place among the problem's decisions, from 0."""
    decided_at: Mapped[datetime]


class AuditRow(_Decision, _View):
    """One decision beside the step that stands at its place now."""

    __tablename__ = "audit"

    problem_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    decided_at: Mapped[datetime]
    tenant_id: Mapped[UUID]
    status: Mapped[str]
    policy_parameters: Mapped[dict[str, Any]]
    """Parameters that the submitter chose."""
    policy_wrappers: Mapped[dict[str, Any]]
    draft_score: Mapped[float | None]

    step_author: Mapped[str | None]
    step_text: Mapped[str | None]
    step_finish: Mapped[str | None]
    step_tokens: Mapped[int | None]
    step_score: Mapped[float | None]
    step_model: Mapped[str | None]
    step_worker: Mapped[str | None]
    step_waited_ms: Mapped[float | None]
    step_worked_ms: Mapped[float | None]
    step_accepted_at: Mapped[datetime | None]
    step_estimated_tokens: Mapped[int | None]


class InboxRow(Base):
    """Id of a draft or an event that a problem's ledger includes, so that it is booked once."""

    __tablename__ = "inbox"

    problem_id: Mapped[UUID] = mapped_column(ForeignKey("problems.id"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
