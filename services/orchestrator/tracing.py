"""Exports to the traces of problems what a transaction committed: admissions, decisions and ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shared.observe import spans
from shared.observe.spans import Span
from shared.observe.tracing import TRACING
from shared.store.port import Change


def export_committed(changes: Iterable[Change]) -> None:
    """Export the spans of what changed problems. Nothing is exported before the commit."""
    for change in changes:
        if TRACING.covers(change.after.problem_id):
            TRACING.export(*_spans(change))


def _spans(change: Change) -> Iterator[Span]:
    before, after = change.locked.state, change.after
    if after is before:
        return
    problem_id, submitted_at = after.problem_id, change.locked.submitted_at
    if before.started_at is None and after.started_at is not None:
        yield spans.admission(problem_id, submitted_at=submitted_at or after.started_at, admitted_at=after.started_at)
    for record in after.decisions:
        yield spans.decision(problem_id, record)
    if after.finished_at is not None and not before.status.is_final:
        yield spans.problem(
            problem_id,
            status=after.status.value,
            reason=None if after.stop_reason is None else after.stop_reason.value,
            failure=None if after.failure is None else after.failure.code,
            policy=change.locked.policy.name,
            question=after.question,
            answer=after.answer,
            ledger=after.ledger,
            submitted_at=submitted_at or after.started_at or after.finished_at,
            ended_at=after.finished_at,
        )
