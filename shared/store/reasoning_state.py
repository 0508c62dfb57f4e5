"""The store of the orchestrator: locks, reads and writes the reasoning state of many problems in one transaction.

This is the orchestrator's hot path. Its statements are SQLAlchemy expressions that are compiled once. They run on the
driver's cursors in pipeline mode: three reads make one round trip, and up to seven writes make one (see
docs/decisions/0007-hot-path-on-the-driver.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import (
    Connection,
    Insert,
    Integer,
    Select,
    Table,
    Update,
    Uuid,
    any_,
    bindparam,
    event,
    false,
    func,
    insert,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.postgresql.psycopg import dialect

from shared.domain.artefacts import EncodedArtefact
from shared.domain.roles import WorkerRole
from shared.domain.steps import Step
from shared.machine.state import State
from shared.store import admission, policy_versions, presence
from shared.store.change_feed import RECORD_END
from shared.store.database import Database, wake_orchestrators
from shared.store.known_steps import NOTHING, Known, KnownSteps
from shared.store.notifications import NOTIFY_END, NOTIFY_PROGRESS, progress_notices
from shared.store.pipelines import pipeline
from shared.store.port import Change, Due, LockedProblem, SeenProcess, Transaction
from shared.store.rows import (
    LEDGER_COLUMNS,
    STEP_COLUMNS,
    decision_values,
    problem_values,
    read_problem,
    shadow_decision_values,
    step_values,
)
from shared.store.shadow_tables import ShadowDecisionRow
from shared.store.tables import DecisionRow, InboxRow, Problem, StepRow

_PROBLEMS: Table = Problem.metadata.tables["problems"]
_STEPS: Table = StepRow.metadata.tables["steps"]
_DECISIONS: Table = DecisionRow.metadata.tables["decisions"]
_SHADOW_DECISIONS: Table = ShadowDecisionRow.metadata.tables["shadow_decisions"]
_INBOX: Table = InboxRow.metadata.tables["inbox"]


class PostgresStore:
    """Reasoning state in Postgres."""

    def __init__(self, database: Database, *, max_running: int | None = None) -> None:
        """Take the database, and the limit of running problems for tenants that have none."""
        self._database = database
        self._max_running = max_running
        self._known_steps = KnownSteps()
        event.listen(database.engine, "connect", lambda *_: self._known_steps.clear())

    @contextmanager
    def begin(self) -> Iterator[Transaction]:
        """Open a transaction: it commits at the end of the block, and rolls back if the block raises.

        Raises:
            DatabaseUnavailable, DatabaseBusy: See `Database.begin`.
        """
        with self._database.begin() as connection:
            generation = self._known_steps.generation
            transaction = PostgresTransaction(connection, self._known_steps, max_running=self._max_running)
            yield transaction
        self._known_steps.keep(transaction.states, generation=generation)

    def read_artefact(self, policy: str, version: int) -> EncodedArtefact | None:
        """Read a policy's artefact in a separate transaction."""
        with self._database.session() as session:
            return policy_versions.read_artefact(session, policy, version)


class PostgresTransaction:
    """An open transaction; `shared.store.port.Transaction` describes the methods."""

    def __init__(self, connection: Connection, known_steps: KnownSteps, *, max_running: int | None) -> None:
        self._connection = connection
        self._max_running = max_running
        self._known_steps = known_steps
        self._states: dict[UUID, State] = {}

    @property
    def states(self) -> Collection[State]:
        """The states as the transaction has read and written them."""
        return self._states.values()

    def lock(self, problem_ids: Collection[UUID], *, heard: Collection[UUID] = ()) -> dict[UUID, LockedProblem]:
        """Lock problems in the order of their ids, and read their states; leave out those that are locked."""
        if not problem_ids:
            return {}
        driver = self._driver()
        ids = list(problem_ids)
        known = self._known_steps.find(ids)
        # Each statement of a pipeline sees what was committed before it began, so the steps are read under the lock.
        with pipeline(driver):
            problems = driver.cursor(row_factory=dict_row).execute(_LOCK_PROBLEMS, {"ids": ids})
            new_steps = driver.execute(_READ_STEPS, _after(ids, known))
            known_ids = driver.execute(_READ_INBOX, {"ids": ids, "heard": list(heard)}) if heard else ()
        rows, steps = list(problems), _by_problem(new_steps)
        knowns = dict(zip(ids, known, strict=True))
        gone = [row["id"] for row in rows if _has_gap(row, knowns[row["id"]], steps.get(row["id"], ()))]
        if gone:
            knowns.update((each, NOTHING) for each in gone)
            steps.update(_by_problem(driver.execute(_READ_STEPS, _after(gone, [NOTHING] * len(gone)))))
        booked: dict[UUID, set[UUID]] = {}
        for problem_id, booked_id in known_ids:
            booked.setdefault(problem_id, set()).add(booked_id)
        locked = {
            (key := row["id"]): read_problem(row, steps.get(key, ()), frozenset(booked.get(key, ())), known=knowns[key])
            for row in rows
        }
        self._states.update((key, each.state) for key, each in locked.items() if each.defect is None)
        return locked

    def find_existing(self, problem_ids: Collection[UUID]) -> set[UUID]:
        """Find the problems that exist, locked or not."""
        found = self._connection.scalars(select(_PROBLEMS.c.id).where(_PROBLEMS.c.id.in_(problem_ids)))
        return set(found)

    def save(self, changes: Iterable[Change]) -> None:
        """Write what changed: steps, scores, decisions, those of shadows, inbox, and the problems' rows.

        Problems that ended are recorded in the feed of changes. At commit, those who wait for problems that ended, or
        that have new steps or decisions, are notified. Postgres serialises the commits of transactions that notify: an
        orchestrator has one at a time, and one notification of progress names up to 200 problems.
        """
        written = [change for change in changes if change.after is not change.locked.state]
        if not written:
            return
        problems: list[dict[str, Any]] = []
        steps: list[dict[str, Any]] = []
        decisions: list[dict[str, Any]] = []
        shadow_decisions: list[dict[str, Any]] = []
        inbox: list[dict[str, Any]] = []
        for change in written:
            before, after = change.locked.state, change.after
            problem_id = after.problem_id
            if change.locked.defect is None:
                self._states[problem_id] = after
            problems.append(problem_values(after))
            steps += [step_values(problem_id, step) for step in _changed(before.steps, after.steps)]
            decisions += [decision_values(problem_id, record) for record in after.decisions]
            shadow_decisions += [shadow_decision_values(problem_id, record) for record in change.shadow_decisions]
            inbox += [{"id": each, "problem_id": problem_id} for each in after.booked - before.booked]
        ended = [{"problem_id": each} for each in _ended(written)]
        driver = self._driver()
        with pipeline(driver), driver.cursor() as cursor:
            for statement, rows in (
                (_INSERT_INBOX, inbox),
                (_UPSERT_STEPS, steps),
                (_INSERT_DECISIONS, decisions),
                (_INSERT_SHADOW_DECISIONS, shadow_decisions),
                (_UPDATE_PROBLEMS, problems),
                (RECORD_END, ended),
                (NOTIFY_PROGRESS, [*progress_notices(_with_progress(written))]),
                (NOTIFY_END, ended),
            ):
                if rows:
                    cursor.executemany(statement, rows)

    def wake_orchestrators(self) -> None:
        """Notify all orchestrators, at commit, that the window has room."""
        wake_orchestrators(self._connection, to="admit")

    def record_processes(self, seen: Iterable[SeenProcess]) -> None:
        """Record heartbeats; an older one never replaces a newer one."""
        admission.record_processes(self._connection, seen)

    def next_queued(
        self, *, now: datetime, window: int, limit: int, away: Collection[WorkerRole] = ()
    ) -> Sequence[UUID]:
        """Find queued problems that fit into the window beside the running ones, fairly between tenants."""
        return admission.next_queued(
            self._connection, now=now, window=window, limit=limit, away=away, max_running=self._max_running
        )

    def find_attention(self, *, now: datetime, limit: int) -> Sequence[Due]:
        """Find problems that are overdue, past their deadline, or to be cancelled."""
        return admission.find_attention(self._connection, now=now, limit=limit)

    def workers(self) -> Sequence[SeenProcess]:
        """Read the newest heartbeat of each worker process."""
        return presence.read_workers(self._connection)

    def find_untold(self, away: Collection[WorkerRole], *, limit: int) -> Sequence[Due]:
        """Find running problems that do not know that a role is away, or that one is back."""
        return presence.find_untold(self._connection, away, limit=limit)

    def _driver(self) -> psycopg.Connection[Any]:
        """Return the driver's connection; SQLAlchemy keeps its transaction."""
        driver: psycopg.Connection[Any] = self._connection.connection.driver_connection  # type: ignore[assignment]
        return driver


def _with_progress(changes: Iterable[Change]) -> list[UUID]:
    """List the problems that have new steps or decisions."""
    return [
        each.after.problem_id
        for each in changes
        if each.after.decisions or len(each.after.steps) > len(each.locked.state.steps)
    ]


def _ended(changes: Iterable[Change]) -> list[UUID]:
    """List the problems that have ended."""
    return [
        each.after.problem_id
        for each in changes
        if each.after.status.is_final and not each.locked.state.status.is_final
    ]


def _changed(before: Sequence[Step], after: Sequence[Step]) -> Iterator[Step]:
    """Yield the steps that are new or have a new score."""
    for index, step in enumerate(after):
        if index >= len(before) or step is not before[index]:
            yield step


def _after(problem_ids: Sequence[UUID], known: Sequence[Known]) -> Mapping[str, Sequence[Any]]:
    """Return parameters that read what is not known of the steps."""
    lengths, unscored_from = [len(each.steps) for each in known], [each.unscored_from for each in known]
    return {"ids": problem_ids, "lengths": lengths, "unscored_from": unscored_from}


def _by_problem(rows: Iterable[Sequence[Any]]) -> dict[UUID, list[Sequence[Any]]]:
    steps: dict[UUID, list[Sequence[Any]]] = {}
    for problem_id, *values in rows:
        steps.setdefault(problem_id, []).append(values)
    return steps


def _has_gap(row: Mapping[str, Any], known: Known, new_steps: Sequence[Sequence[Any]]) -> bool:
    """Tell whether what is known of a problem's steps, and what was read after it, are not all of its steps."""
    end = max(len(known.steps), new_steps[-1][_STEP] + 1 if new_steps else 0)
    return bool(known.steps) and end != row["step_count"]


def _sql(statement: Select[Any] | Insert | Update, columns: Sequence[str] | None = None) -> str:
    """Compile a statement to the driver's SQL, with named parameters; `columns` are those of an insertion."""
    return str(statement.compile(dialect=dialect(), column_keys=columns))  # type: ignore[no-untyped-call]


# One array parameter rather than a list of parameters: the same statement, prepared once, for batches of every size.
_IDS = any_(bindparam("ids", type_=ARRAY(Uuid())))
_HEARD = func.unnest(bindparam("heard", type_=ARRAY(Uuid())))
_LOCK_PROBLEMS = _sql(
    select(_PROBLEMS).where(_PROBLEMS.c.id == _IDS).order_by(_PROBLEMS.c.id).with_for_update(skip_locked=True)
)
_STEP = STEP_COLUMNS.index("step")
_KNOWN = (
    func.unnest(
        bindparam("ids", type_=ARRAY(Uuid())),
        bindparam("lengths", type_=ARRAY(Integer())),
        bindparam("unscored_from", type_=ARRAY(Integer())),
    )
    .table_valued("problem_id", "length", "unscored_from")
    .render_derived(name="known")
)
# By problem: as one join, the planner reads the whole table for batches of some size.
_NEW_STEPS = (
    select(*(_STEPS.c[name] for name in STEP_COLUMNS))
    .where(
        _STEPS.c.problem_id == _KNOWN.c.problem_id,
        _STEPS.c.step >= _KNOWN.c.unscored_from,
        or_(_STEPS.c.step >= _KNOWN.c.length, _STEPS.c.score.is_not(None)),
    )
    .order_by(_STEPS.c.step)
    .offset(literal_column("0"))
    .lateral("new_steps")
)
_READ_STEPS = _sql(select(_KNOWN.c.problem_id, _NEW_STEPS).join_from(_KNOWN, _NEW_STEPS, true()))
_READ_INBOX = _sql(
    select(_INBOX.c.problem_id, _INBOX.c.id).where(_INBOX.c.problem_id == _IDS, _INBOX.c.id.in_(select(_HEARD)))
)

_WRITTEN = (
    "status", "epoch", "request", "request_count", "oldest_request", "attempts", "pending", "due_at", "absences",
    "started_at", "finished_at", "step_count", "escalation_count", "decision_count", "stop_reason", "failure_code",
    "failure_detail", "answer", "verdict", *LEDGER_COLUMNS,
)  # fmt: skip
_UPDATE_PROBLEMS = _sql(
    update(_PROBLEMS)
    .where(_PROBLEMS.c.id == bindparam("problem_id"))
    # An event that arrives after the pruning refills the inbox.
    .values({"is_inbox_pruned": false(), **{name: bindparam(name) for name in _WRITTEN}})
)
_INSERT_INBOX = _sql(insert(_INBOX), [column.name for column in _INBOX.c])
_INSERT_DECISIONS = _sql(insert(_DECISIONS), [column.name for column in _DECISIONS.c])
_INSERT_SHADOW_DECISIONS = _sql(insert(_SHADOW_DECISIONS), [column.name for column in _SHADOW_DECISIONS.c])
_INSERT_STEPS = postgres_insert(_STEPS)
# Only a step's score changes: a large step is scored with the draft that follows it.
_UPSERT_STEPS = _sql(
    _INSERT_STEPS.on_conflict_do_update(
        index_elements=["problem_id", "step"], set_={"score": _INSERT_STEPS.excluded.score}
    ),
    [column.name for column in _STEPS.c],
)
