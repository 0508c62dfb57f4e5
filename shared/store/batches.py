"""Queries for batches: their sums, why their problems failed, and their status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, exists, func, literal_column, select, tuple_
from sqlalchemy.orm import Session

from shared.domain.ledger import Ledger
from shared.domain.status import BatchStatus, Status
from shared.store.cursors import FIRST_ID, LAST_ID, make_cursor, read_id
from shared.store.queries import Page
from shared.store.rows import LEDGER_COLUMNS
from shared.store.tables import Batch, Problem

MAX_FAILURES: Final = 20
"""Maximum number of codes of failures that a summary lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Sums over problems of a batch."""

    size: int
    statuses: Mapping[str, int]
    verdicts: Mapping[str, int]
    ledger: Ledger
    step_count: int
    escalation_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Problems of a batch that failed with one code."""

    code: str
    count: int
    detail: str
    """Explanation of one of them; empty if all were erased."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """A batch with the sums over its problems, and over those of each arm."""

    batch: Batch
    status: BatchStatus
    sums: Sums
    arms: Mapping[str, Sums]
    """Sums by the name of the arm, in the order of the names; empty for a batch without a split."""
    failures: Sequence[Failures]
    """Commonest first, at most `MAX_FAILURES`."""


@dataclass(frozen=True, slots=True)
class ListedBatch:
    """A batch of a listing."""

    batch: Batch
    status: BatchStatus


_SUMMED: Final = ("step_count", "escalation_count", *LEDGER_COLUMNS)
_GROUPED: Final = (Problem.status, Problem.verdict, Problem.arm, Problem.failure_code)
_SUMS = select(
    *_GROUPED,
    func.max(Problem.failure_detail).label("failure_detail"),
    func.count().label("problems"),
    *(func.sum(getattr(Problem, name)).label(name) for name in _SUMMED),
).group_by(*_GROUPED)

IS_OPEN: Final = Problem.status.in_([literal_column("'queued'"), literal_column("'running'")])
"""With literals, so that the server knows that its partial index has all open problems."""

# With a limit, which keeps the server from reading the open problems of all batches.
_HAS_OPEN = select(Problem.id).where(Problem.batch_id == Batch.id, IS_OPEN).limit(1).scalar_subquery().is_not(None)


def has_batch(session: Session, tenant_id: UUID, batch_id: UUID) -> bool:
    """Tell whether a batch exists."""
    return bool(session.scalar(select(exists().where(Batch.tenant_id == tenant_id, Batch.id == batch_id))))


def list_batches(session: Session, tenant_id: UUID, *, limit: int, cursor: str | None) -> Page[ListedBatch]:
    """List batches, newest first.

    Raises:
        BadCursor: The cursor is not one of this listing.
    """
    before = LAST_ID if cursor is None else read_id("batches", cursor)
    place = tuple_(Batch.tenant_id, Batch.id)
    # A range, for the reason that `finding` has.
    query = select(Batch, _HAS_OPEN).where(place < tuple_(tenant_id, before), place >= tuple_(tenant_id, FIRST_ID))
    rows = session.execute(query.order_by(Batch.tenant_id.desc(), Batch.id.desc()).limit(limit + 1)).all()
    items = [ListedBatch(batch, _status(batch, has_open=has_open)) for batch, has_open in rows[:limit]]
    return Page(items, make_cursor("batches", str(items[-1].batch.id)) if len(rows) > limit else None)


def list_batch_ids(session: Session, tenant_id: UUID, batch_id: UUID) -> Sequence[UUID]:
    """List the ids of a batch's problems in the order of their submission."""
    query = select(Problem.id).where(Problem.tenant_id == tenant_id, Problem.batch_id == batch_id)
    return session.scalars(query.order_by(Problem.batch_index)).all()


def read_batch(session: Session, tenant_id: UUID, batch_id: UUID) -> BatchSummary | None:
    """Read a batch with its sums, all as of one moment."""
    batch = session.scalar(select(Batch).where(Batch.tenant_id == tenant_id, Batch.id == batch_id))
    if batch is None:
        return None
    groups = session.execute(_SUMS.where(Problem.batch_id == batch_id)).all()
    names = sorted({group.arm for group in groups if group.arm is not None})
    return BatchSummary(
        batch=batch,
        status=_status(batch, has_open=any(not Status(group.status).is_final for group in groups)),
        sums=_sum(groups),
        arms={name: _sum([group for group in groups if group.arm == name]) for name in names},
        failures=_failures(groups),
    )


def _status(batch: Batch, *, has_open: bool) -> BatchStatus:
    if not has_open:
        return BatchStatus.ENDED
    return BatchStatus.RUNNING if batch.cancel_requested_at is None else BatchStatus.CANCELLING


def _sum(groups: Sequence[Row[Any]]) -> Sums:
    sums = {name: sum(int(getattr(group, name)) for group in groups) for name in _SUMMED}
    return Sums(
        size=sum(group.problems for group in groups),
        statuses=_count_by("status", groups),
        verdicts=_count_by("verdict", groups),
        ledger=Ledger(**{name: sums[name] for name in LEDGER_COLUMNS}),
        step_count=sums["step_count"],
        escalation_count=sums["escalation_count"],
    )


def _failures(groups: Sequence[Row[Any]]) -> list[Failures]:
    details = {group.failure_code: group.failure_detail or "" for group in groups}
    counts = Counter(_count_by("failure_code", groups))
    return [Failures(code=code, count=n, detail=details[code]) for code, n in counts.most_common(MAX_FAILURES)]


def _count_by(name: str, groups: Sequence[Row[Any]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for group in groups:
        if (value := getattr(group, name)) is not None:
            counts[value] += group.problems
    return dict(counts)
