"""Counts what a transaction committed, from each problem's state before and after.

Nothing is counted before the commit, so an event that is rolled back or redelivered counts nothing twice. A transaction
whose commit succeeded although its confirmation was lost is not counted at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from shared.domain.decisions import Decision
from shared.domain.ledger import Ledger
from shared.domain.shadows import ShadowRecord
from shared.domain.status import Status
from shared.machine.state import State
from shared.observe import metrics
from shared.store.port import Change


def count_committed(changes: Sequence[Change]) -> None:
    """Count what changed problems: steps, decisions, tokens, calls, admissions and ends."""
    steps, tokens, calls = Counter[str](), Counter[str](), Counter[str]()
    for change in changes:
        before, after = change.locked.state, change.after
        if after is before:
            continue
        steps.update(step.author for step in after.steps[len(before.steps) :])
        _count_decisions(after, change.shadow_decisions)
        if after.ledger is not before.ledger:
            _add_differences(before.ledger, after.ledger, metrics.TOKEN_COLUMNS, tokens)
            _add_differences(before.ledger, after.ledger, metrics.CALL_COLUMNS, calls)
        _count_course(before, after, submitted_at=change.locked.submitted_at)
    for author, count in steps.items():
        metrics.STEPS[author].inc(count)
    for column, count in tokens.items():
        metrics.TOKENS[column].inc(count)
    for column, count in calls.items():
        metrics.CALLS[metrics.CALL_COLUMNS[column]].inc(count)


def count_events(changes: Iterable[Change]) -> None:
    """Count the events from workers that one transaction applied, without those that changed nothing."""
    kinds = Counter(event.kind for change in changes for event in change.heard)
    for kind, count in kinds.items():
        metrics.EVENTS.labels(kind).inc(count)
    if total := kinds.total():
        metrics.BATCH_EVENTS.observe(total)


def count_swept(changes: Iterable[Change]) -> None:
    """Count what a sweep did to problems."""
    for change in changes:
        if (action := _swept(change.locked.state, change.after)) is not None:
            metrics.SWEPT.labels(action).inc()


def count_pruned(rows: int) -> None:
    """Count problems whose inboxes were deleted, and deleted idempotency keys."""
    metrics.SWEPT.labels("pruned").inc(rows)


def _count_decisions(after: State, shadows: Iterable[ShadowRecord]) -> None:
    for record in after.decisions:
        metrics.DECISIONS.labels(record.policy.name, record.decision.action, record.decision.reason).inc()
        if record.observation.score is not None:
            metrics.PRM_SCORE.observe(record.observation.score)
    for shadow in shadows:
        outcome = shadow.outcome.action if isinstance(shadow.outcome, Decision) else "skipped"
        metrics.SHADOW_DECISIONS.labels(shadow.policy.name, outcome).inc()


def _add_differences(before: Ledger, after: Ledger, columns: Iterable[str], sums: Counter[str]) -> None:
    for column in columns:
        if more := getattr(after, column) - getattr(before, column):
            sums[column] += more


def _count_course(before: State, after: State, *, submitted_at: datetime | None) -> None:
    """Count an admission or an end, and how long it took; a simulated problem has no time of submission."""
    if before.started_at is None and after.started_at is not None and submitted_at is not None:
        metrics.PROBLEM_QUEUED_SECONDS.observe(_seconds(submitted_at, after.started_at))
    if not after.status.is_final or before.status.is_final:
        return
    metrics.PROBLEMS_ENDED.labels(after.status, _reason(after)).inc()
    if after.finished_at is not None and submitted_at is not None:
        metrics.PROBLEM_SECONDS.labels(after.status).observe(_seconds(submitted_at, after.finished_at))


def _reason(state: State) -> str:
    if state.failure is not None:
        return state.failure.code
    return "none" if state.stop_reason is None else state.stop_reason


def _swept(before: State, after: State) -> str | None:
    if before.status is Status.QUEUED and after.started_at is not None:
        return "admitted"
    if after.status.is_final and not before.status.is_final:
        return after.status
    return "repeated" if after.request_count > before.request_count else None


def _seconds(begin: datetime, end: datetime) -> float:
    """Return the time between two moments; the database's clock may be ahead of this one."""
    return max(0.0, (end - begin).total_seconds())
