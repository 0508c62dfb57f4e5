"""Reads and writes the reasoning state of problems, many at a time: the orchestrator's hot path.

The statements are SQLAlchemy's, compiled once; they run on the driver's own cursors, in its pipeline mode: three reads
make one round trip, and four writes make one (see docs/decisions/0007-hot-path-on-the-driver.md).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row
from pydantic import TypeAdapter
from sqlalchemy import (
    Connection,
    Insert,
    Select,
    Table,
    Update,
    Uuid,
    any_,
    bindparam,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.postgresql.psycopg import dialect

from shared.domain.decisions import DecisionRecord
from shared.domain.drafts import Finish, ScoredDraft
from shared.domain.ledger import Ledger
from shared.domain.options import Options
from shared.domain.roles import Author
from shared.domain.status import Failure, Status, StopReason
from shared.domain.steps import Step
from shared.domain.text import prefix_digest
from shared.domain.verdict import Verdict, verdict_of
from shared.errors import TrimError
from shared.log import get_logger
from shared.machine.state import State, StepRequest
from shared.policies.policy import Policy
from shared.policies.registry import build_policy
from shared.store.tables import DecisionRow, InboxRow, Problem, StepRow

_log = get_logger(__name__)

_PROBLEMS: Table = Problem.metadata.tables["problems"]
_STEPS: Table = StepRow.metadata.tables["steps"]
_DECISIONS: Table = DecisionRow.metadata.tables["decisions"]
_INBOX: Table = InboxRow.metadata.tables["inbox"]

_OPTIONS = TypeAdapter(Options)
_ASK = TypeAdapter(StepRequest | None)
_PENDING = TypeAdapter(tuple[ScoredDraft, ...])
_LEDGER_COLUMNS = tuple(each.name for each in fields(Ledger))
_STEP_FIELDS = tuple(each.name for each in fields(Step))
_STEP_COLUMNS = [_STEPS.c[name if name != "index" else "step"] for name in _STEP_FIELDS]


@dataclass(frozen=True, slots=True)
class LockedProblem:
    """A problem whose row is locked until the transaction ends."""

    state: State
    """With `decisions` empty: those of before are written and never read again."""
    policy: Policy
    reference: str | None


def lock_problems(
    connection: Connection, problem_ids: Collection[UUID], *, heard: Collection[UUID] = ()
) -> dict[UUID, LockedProblem]:
    """Lock problems, in the order of their ids, and read their states.

    A row that this version cannot read (a policy that a newer api accepted, say) is ended as failed on the spot: left
    as it is, it would be found due for ever.

    Args:
        connection: An open transaction.
        problem_ids: Ids of the problems; those unknown or unreadable are left out of the result.
        heard: Ids of events and drafts about to be applied; those booked before are in `State.booked`.
    """
    if not problem_ids:
        return {}
    driver = _driver(connection)
    ids = {"ids": list(problem_ids)}
    # In a pipeline each statement still sees what was committed before it began: the steps are read under the lock.
    with driver.pipeline():
        problems = driver.cursor(row_factory=dict_row).execute(_LOCK_PROBLEMS, ids)
        known_steps = driver.execute(_READ_STEPS, ids)
        known_ids = driver.execute(_READ_INBOX, {"ids": list(heard)})
    steps: dict[UUID, list[Step]] = {}
    for problem_id, *values in known_steps:
        steps.setdefault(problem_id, []).append(_step(values))
    booked: dict[UUID, set[UUID]] = {}
    for problem_id, booked_id in known_ids:
        booked.setdefault(problem_id, set()).add(booked_id)
    locked: dict[UUID, LockedProblem] = {}
    for row in problems:
        problem_id = row["id"]
        try:
            locked[problem_id] = _locked(row, steps.get(problem_id, ()), frozenset(booked.get(problem_id, ())))
        except (TrimError, ValueError, TypeError, KeyError) as error:
            _log.error("problem_unreadable", problem_id=str(problem_id), reason=type(error).__name__)
            detail = f"Its row cannot be read ({type(error).__name__}); upgrade the orchestrators before the api."
            end_unreadable(connection, problem_id, detail=detail)
    return locked


def end_unreadable(connection: Connection, problem_id: UUID, *, detail: str) -> None:
    """End an open problem as failed without reading its state; later events of it are of an old epoch."""
    connection.execute(
        update(_PROBLEMS)
        .where(_PROBLEMS.c.id == problem_id, _PROBLEMS.c.status.in_([Status.QUEUED, Status.RUNNING]))
        .values(
            status=Status.FAILED,
            failure_code="unreadable",
            failure_detail=detail,
            epoch=_PROBLEMS.c.epoch + 1,
            request=None,
            pending=[],
            due_at=None,
            finished_at=func.now(),
        )
    )


def save_states(connection: Connection, changes: Iterable[tuple[LockedProblem, State]]) -> None:
    """Write what changed: new steps, new scores, new decisions, new inbox ids, and the problems' rows."""
    problems: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    decisions: list[dict[str, Any]] = []
    inbox: list[dict[str, Any]] = []
    for locked, after in changes:
        before = locked.state
        if after is before:
            continue
        problems.append(_problem_values(after, locked.reference))
        steps += [
            _step_values(after.problem_id, step)
            for step, old in zip(after.steps, _padded(before.steps, len(after.steps)), strict=True)
            if step != old
        ]
        decisions += [_decision_values(after.problem_id, record) for record in after.decisions]
        inbox += [{"id": each, "problem_id": after.problem_id} for each in after.booked - before.booked]
    if not problems:
        return
    driver = _driver(connection)
    with driver.pipeline(), driver.cursor() as cursor:
        for statement, rows in (
            (_INSERT_INBOX, inbox),
            (_UPSERT_STEPS, steps),
            (_INSERT_DECISIONS, decisions),
            (_UPDATE_PROBLEMS, problems),
        ):
            if rows:
                cursor.executemany(statement, rows)


def _driver(connection: Connection) -> psycopg.Connection[Any]:
    """Return the driver's connection beneath SQLAlchemy's, which goes on to keep the transaction."""
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    return driver


def options_values(options: Options) -> dict[str, Any]:
    """Turn options into the JSON that the problem's row keeps; the deadline has a column of its own."""
    values: dict[str, Any] = _OPTIONS.dump_python(options, mode="json")
    del values["deadline_at"]
    return values


def read_options(values: Mapping[str, Any], deadline_at: datetime | None) -> Options:
    """Read options back from what `options_values` made of them."""
    return replace(_OPTIONS.validate_python(dict(values)), deadline_at=deadline_at)


# --- rows to values -------------------------------------------------------------------------------------------------


def _locked(row: Mapping[str, Any], steps: Sequence[Step], booked: frozenset[UUID]) -> LockedProblem:
    state = State(
        problem_id=row["id"],
        question=row["question"],
        options=read_options(row["options"], row["deadline_at"]),
        status=Status(row["status"]),
        epoch=row["epoch"],
        steps=tuple(steps),
        digest=prefix_digest(row["question"], [step.text for step in steps]),
        pending=_PENDING.validate_python(row["pending"]),
        request=_ASK.validate_python(row["request"]),
        request_count=row["request_count"],
        oldest_request=row["oldest_request"],
        attempts=row["attempts"],
        due_at=row["due_at"],
        ledger=Ledger(**{name: row[name] for name in _LEDGER_COLUMNS}),
        booked=booked,
        stop_reason=StopReason(row["stop_reason"]) if row["stop_reason"] else None,
        failure=Failure(code=row["failure_code"], detail=row["failure_detail"]) if row["failure_code"] else None,
        answer=row["answer"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )
    policy = _policy(row["policy"], json.dumps(row["policy_parameters"], sort_keys=True))
    return LockedProblem(state=state, policy=policy, reference=row["reference"])


@lru_cache(maxsize=1024)
def _policy(name: str, parameters: str) -> Policy:
    return build_policy(name, json.loads(parameters))


def _step(values: Sequence[Any]) -> Step:
    named = dict(zip(_STEP_FIELDS, values, strict=True))
    return Step(**{**named, "author": Author(named["author"]), "finish": Finish(named["finish"])})


# --- values to rows -------------------------------------------------------------------------------------------------


def _padded(steps: Sequence[Step], length: int) -> Sequence[Step | None]:
    return [*steps, *[None] * (length - len(steps))]


def _problem_values(state: State, reference: str | None) -> dict[str, Any]:
    verdict: Verdict | None = None
    if state.status is Status.SUCCEEDED:
        verdict = verdict_of(state.answer, reference)
    return {
        "problem_id": state.problem_id,
        "status": state.status,
        "epoch": state.epoch,
        "request": state.request and _ASK.dump_json(state.request).decode(),
        "request_count": state.request_count,
        "oldest_request": state.oldest_request,
        "attempts": state.attempts,
        "pending": _PENDING.dump_json(state.pending).decode(),
        "due_at": state.due_at,
        "started_at": state.started_at,
        "finished_at": state.finished_at,
        "stop_reason": state.stop_reason,
        "failure_code": state.failure.code if state.failure else None,
        "failure_detail": state.failure.detail if state.failure else None,
        "answer": state.answer,
        "verdict": verdict,
        **asdict(state.ledger),
    }


def _step_values(problem_id: UUID, step: Step) -> dict[str, Any]:
    values = {name: getattr(step, name) for name in _STEP_FIELDS}
    return {"problem_id": problem_id, "step": values.pop("index"), **values}


def _decision_values(problem_id: UUID, record: DecisionRecord) -> dict[str, Any]:
    seen, chosen, draft, scoring = record.observation, record.decision, record.draft, record.scoring
    return {
        "problem_id": problem_id,
        "step": record.step,
        "epoch": record.epoch,
        "decided_at": record.decided_at,
        "action": chosen.action,
        "reason": chosen.reason,
        "value": chosen.value,
        "compared_with": chosen.compared_with,
        "score": seen.score,
        "previous_scores": list(seen.previous_scores),
        "is_final": seen.is_final,
        "large_tokens": seen.large_tokens,
        "seed": seen.seed,
        "draft_id": draft and draft.id,
        "draft_text": draft and draft.text,
        "draft_finish": draft and draft.finish,
        "draft_tokens": draft and draft.tokens,
        "draft_prompt_tokens": draft and draft.prompt_tokens,
        "draft_cached_tokens": draft and draft.cached_tokens,
        "draft_model": draft and draft.model,
        "draft_worker": draft and draft.worker,
        "draft_waited_ms": draft and draft.waited_ms,
        "draft_worked_ms": draft and draft.worked_ms,
        "prm_model": scoring and scoring.model,
        "prm_worker": scoring and scoring.worker,
        "prm_tokens": scoring and scoring.tokens,
        "prm_waited_ms": scoring and scoring.waited_ms,
        "prm_worked_ms": scoring and scoring.worked_ms,
    }


def _sql(statement: Select[Any] | Insert | Update, columns: Sequence[str] | None = None) -> str:
    """Compile a statement to the driver's SQL, with named parameters; `columns` are those of an insertion."""
    return str(statement.compile(dialect=dialect(), column_keys=columns))  # type: ignore[no-untyped-call]


# One array parameter rather than a list of them: the same statement, prepared once, for batches of every size.
_IDS = any_(bindparam("ids", type_=ARRAY(Uuid())))
_LOCK_PROBLEMS = _sql(select(_PROBLEMS).where(_PROBLEMS.c.id == _IDS).order_by(_PROBLEMS.c.id).with_for_update())
_READ_STEPS = _sql(
    select(_STEPS.c.problem_id, *_STEP_COLUMNS)
    .where(_STEPS.c.problem_id == _IDS)
    .order_by(_STEPS.c.problem_id, _STEPS.c.step)
)
_READ_INBOX = _sql(select(_INBOX.c.problem_id, _INBOX.c.id).where(_INBOX.c.id == _IDS))

_WRITTEN = (
    "status", "epoch", "request", "request_count", "oldest_request", "attempts", "pending", "due_at", "started_at", "finished_at",
)  # fmt: skip
_ENDED = ("stop_reason", "failure_code", "failure_detail", "answer", "verdict")
_UPDATE_PROBLEMS = _sql(
    update(_PROBLEMS)
    .where(_PROBLEMS.c.id == bindparam("problem_id"))
    .values({name: bindparam(name) for name in (*_WRITTEN, *_ENDED, *_LEDGER_COLUMNS)})
)
_INSERT_INBOX = _sql(insert(_INBOX), [column.name for column in _INBOX.c])
_INSERT_DECISIONS = _sql(insert(_DECISIONS), [column.name for column in _DECISIONS.c])
_INSERT_STEPS = postgres_insert(_STEPS)
# A step is written once; only its score may come later (a large step is scored with the draft that follows it).
_UPSERT_STEPS = _sql(
    _INSERT_STEPS.on_conflict_do_update(
        index_elements=["problem_id", "step"], set_={"score": _INSERT_STEPS.excluded.score}
    ),
    [column.name for column in _STEPS.c],
)
