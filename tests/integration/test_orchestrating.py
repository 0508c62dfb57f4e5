"""The orchestrator on a real database: a bad row, message or problem harms no other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text

from services.orchestrator import applying
from services.orchestrator.applying import Outgoing
from services.orchestrator.batches import apply_deliveries
from services.orchestrator.housekeeping import prune
from services.orchestrator.policy_cache import PolicyCache
from services.orchestrator.setting_aside import SetAside
from services.orchestrator.sweeping import admit, attend
from shared.bus.consumer import Delivery
from shared.bus.topology import DELIVERY_LIMIT, DeadLetter
from shared.machine.state import ProblemAdmitted
from shared.messages import CancelWork, GenerateSteps, WorkerSeen, encode
from shared.store.admission import record_processes
from shared.store.database import Database, DatabaseBusy
from shared.store.port import SeenProcess
from shared.store.pruning import prune_inbox
from shared.store.reasoning_state import PostgresStore
from stack.scratch import scratch_database
from tests.integration.solving import (
    NOW,
    WINDOW,
    deliver,
    empty,
    execute,
    fail,
    follow,
    hear,
    rows,
    start,
    submit,
    take,
    write,
)

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def shared_database(postgres_server: str) -> Iterator[Database]:
    with scratch_database(postgres_server) as url, closing(Database(url)) as made:
        yield made


@pytest.fixture
def database(shared_database: Database) -> Database:
    empty(shared_database)
    return shared_database


def admit_all(database: Database) -> list[Outgoing]:
    store = PostgresStore(database)
    return admit(store, window=WINDOW, policies=PolicyCache(store), now=lambda: NOW).outgoing


def attend_all(database: Database, *, now: datetime = NOW) -> list[Outgoing]:
    store = PostgresStore(database)
    return attend(store, roles=lambda *_: None, policies=PolicyCache(store), now=lambda: now).outgoing


def apply_all(database: Database, *deliveries: Delivery) -> list[Outgoing]:
    return take(database, *deliveries).outgoing


def read(database: Database, problem_id: UUID) -> dict[str, Any]:
    [row] = rows(database, "SELECT * FROM problems WHERE id = :id", id=problem_id)
    return row


UNREADABLE = {
    "options": '{"lookahead": "far"}',
    "pending": '[{"draft": "of tomorrow"}]',
    "request": '{"author": "medium"}',
}
"""Values that a newer version might store, by column."""


def spoil(database: Database, problem_id: UUID, column: str = "options") -> None:
    """Make a problem's row unreadable, and the problem due."""
    execute(
        database, f"UPDATE problems SET {column} = :value, due_at = :now WHERE id = :id",
        value=UNREADABLE[column], id=problem_id, now=NOW,
    )  # fmt: skip


def wake_ups(listening: psycopg.Connection[Any]) -> list[str]:
    return [each.payload for each in listening.notifies(timeout=0.2)]


def test_a_queued_problem_of_an_unknown_policy_fails_and_the_others_start(database: Database) -> None:
    unreadable, good = submit(database), submit(database)
    execute(database, "UPDATE problems SET policy = 'of-tomorrow' WHERE id = :id", id=unreadable)
    outgoing = admit_all(database)
    assert [each.problem_id for each in outgoing if isinstance(each, GenerateSteps)] == [good]
    row = read(database, unreadable)
    assert (row["status"], row["failure_code"]) == ("failed", "unreadable")
    assert "UnknownPolicy" in row["failure_detail"]
    assert admit_all(database) == [], "it is not found again"


@pytest.mark.parametrize("column", list(UNREADABLE))
def test_a_running_problem_whose_row_cannot_be_decoded_fails_through_the_machine(
    database: Database, column: str
) -> None:
    unreadable, good = submit(database), submit(database)
    commands = start(database)
    command = follow(hear(database, write(commands[unreadable], "A step.")))
    spoil(database, unreadable, column)
    with closing(database.listen()) as listening:
        assert attend_all(database) == [CancelWork(problem_id=unreadable, epoch=1)]
        assert wake_ups(listening) == ["admit"]
    row = read(database, unreadable)
    assert (row["status"], row["failure_code"], row["epoch"]) == ("failed", "unreadable", 1)
    assert (row["request"], row["pending"], row["due_at"], row["finished_at"]) == (None, [], None, NOW)
    assert (row["step_count"], row["decision_count"], row["small_kept"], row["prm_calls"]) == (1, 1, 5, 1)
    assert attend_all(database) == [], "it is not found again"
    late = deliver(encode(write(command, "Another step.")))
    assert apply_all(database, late, deliver(encode(fail(good)))) == [CancelWork(problem_id=good, epoch=1)]
    assert apply_all(database, late) == []
    row = read(database, unreadable)
    assert (row["small_kept"], row["small_wasted"], row["prm_calls"]) == (5, 5, 2), "late work is booked, once"
    assert read(database, good)["failure_code"] == "broken"
    assert read(database, unreadable)["failure_code"] == "unreadable"


def test_events_of_a_problem_whose_row_cannot_be_decoded_are_booked_once_it_has_failed(database: Database) -> None:
    unreadable, good = submit(database), submit(database)
    commands = start(database)
    spoil(database, unreadable)
    events = [encode(write(commands[each], "A step.")) for each in (unreadable, good)]
    with closing(database.listen()) as listening:
        outgoing = apply_all(database, *map(deliver, events))
        assert wake_ups(listening) == ["admit"]
    assert not [each for each in outgoing if isinstance(each, DeadLetter)]
    assert CancelWork(problem_id=unreadable, epoch=1) in outgoing
    assert [each.problem_id for each in outgoing if isinstance(each, GenerateSteps)] == [good]
    row = read(database, unreadable)
    assert (row["status"], row["failure_code"], row["epoch"]) == ("failed", "unreadable", 1)
    assert (row["small_wasted"], row["prm_calls"]) == (5, 1)
    assert read(database, good)["step_count"] == 1


def test_a_problem_that_the_machine_fails_on_does_not_stop_the_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = submit(database), submit(database)
    real = applying.apply

    def breaks(state: Any, event: Any, **more: Any) -> Any:
        if state.problem_id == bad and isinstance(event, ProblemAdmitted):
            raise RecursionError
        return real(state, event, **more)

    monkeypatch.setattr(applying, "apply", breaks)
    started = admit_all(database)
    assert [each.problem_id for each in started if isinstance(each, GenerateSteps)] == [good]
    row = read(database, bad)
    assert (row["status"], row["failure_code"]) == ("failed", "unreadable")
    assert row["failure_detail"] == "The orchestrator failed on it (RecursionError)."


def test_a_message_that_breaks_the_transaction_of_all_is_found(database: Database) -> None:
    problem_id = submit(database)
    start(database)
    hostile = WorkerSeen(role="small", worker="a\x00b", model="m", seen_at=datetime.now(UTC))
    [letter, *rest] = apply_all(database, deliver(encode(hostile)), deliver(encode(fail(problem_id))))
    assert isinstance(letter, DeadLetter)
    assert letter.body == encode(hostile)
    assert rest == [CancelWork(problem_id=problem_id, epoch=1)]


def test_a_message_that_was_delivered_too_often_is_a_dead_letter(database: Database) -> None:
    problem_id = submit(database)
    start(database)
    body = encode(fail(problem_id))
    [letter] = apply_all(database, deliver(body, deliveries=DELIVERY_LIMIT + 1))
    assert isinstance(letter, DeadLetter)
    assert read(database, problem_id)["status"] == "running"
    assert apply_all(database, deliver(body, deliveries=DELIVERY_LIMIT)) != []
    assert read(database, problem_id)["status"] == "failed"


def test_an_event_that_arrives_twice_is_booked_once(database: Database) -> None:
    problem_id = submit(database)
    event = write(start(database)[problem_id], "A step.")
    hear(database, event)
    before = read(database, problem_id)
    assert hear(database, event) == []
    assert read(database, problem_id) == before


def test_the_time_is_taken_once_the_problem_is_locked(database: Database) -> None:
    """While a transaction waits for a lock, another one records later times, and deadlines pass."""
    problem_id = submit(database)
    command = start(database)[problem_id]
    free: list[int] = []

    def now() -> datetime:
        free.append(len(rows(database, "SELECT 1 FROM problems FOR UPDATE SKIP LOCKED")))
        return NOW

    store = PostgresStore(database)
    policies = PolicyCache(store)
    aside, event = SetAside(monotonic=time.monotonic), deliver(encode(write(command, "A step.")))
    apply_deliveries(store, [event], aside=aside, policies=policies, now=now)
    assert free == [0]
    execute(database, "UPDATE problems SET due_at = :now", now=NOW)
    attend(store, roles=lambda *_: None, policies=policies, now=now)
    assert free == [0, 1, 0], "once to find what is due, and once to change it"


def test_the_sweeper_skips_a_problem_that_another_transaction_has_locked(database: Database) -> None:
    locked, free = submit(database), submit(database)
    with PostgresStore(database).begin() as transaction:
        transaction.lock([locked])
        assert list(start(database)) == [free]
        execute(database, "UPDATE problems SET due_at = :now WHERE id = :id", id=free, now=NOW)
        assert [each.problem_id for each in attend_all(database) if isinstance(each, GenerateSteps)] == [free]
    assert list(start(database)) == [locked]


def test_one_replica_admits_at_a_time(database: Database) -> None:
    submit(database)
    with PostgresStore(database).begin() as transaction:
        assert transaction.next_queued(now=NOW, window=1, limit=1)
        with PostgresStore(database).begin() as other:
            assert other.next_queued(now=NOW, window=1, limit=1) == []


def test_old_rows_are_deleted(database: Database) -> None:
    old, recent = submit(database), submit(database)
    start(database)
    hear(database, fail(old), fail(recent))
    execute(database, "UPDATE problems SET finished_at = :old WHERE id = :id", id=old, old=NOW - timedelta(hours=25))
    with database.begin() as connection:
        silent = SeenProcess("silent", role="small", model="m", seen_at=NOW - timedelta(hours=2))
        record_processes(connection, [silent, SeenProcess("alive", role="small", model="m", seen_at=NOW)])
    assert prune(database, now=NOW) == ["silent"]
    assert [each["problem_id"] for each in rows(database, "SELECT DISTINCT problem_id FROM inbox")] == [recent]
    assert [each["name"] for each in rows(database, "SELECT name FROM processes")] == ["alive"]


def test_the_inbox_of_an_event_that_arrives_after_the_pruning_is_deleted_by_the_next_one(database: Database) -> None:
    problem_id = submit(database)
    command = start(database)[problem_id]
    hear(database, fail(problem_id))
    later = NOW + timedelta(hours=25)
    for expected in (1, 0):
        with database.begin() as connection:
            assert prune_inbox(connection, now=later) == expected
    hear(database, write(command, "Too late."))
    assert rows(database, "SELECT 1 FROM inbox")
    prune(database, now=later)
    assert rows(database, "SELECT 1 FROM inbox") == []


def test_replicas_prune_different_problems(database: Database) -> None:
    ids = [submit(database) for _ in range(4)]
    start(database)
    hear(database, *map(fail, ids))
    later = NOW + timedelta(hours=25)
    with database.begin() as one, database.begin() as other:
        assert prune_inbox(one, now=later, limit=3) == 3
        assert prune_inbox(other, now=later, limit=3) == 1
    assert rows(database, "SELECT 1 FROM inbox") == []


def test_a_busy_database_is_reported_as_busy(database_url: str) -> None:
    with closing(Database(database_url, statement_timeout_s=1)) as database, pytest.raises(DatabaseBusy):
        execute(database, "SELECT pg_sleep(30)")


def test_steps_update_a_problem_within_its_page(database_url: str) -> None:
    """The row is written with each step, so an update that touched an index would touch all of them."""
    # One page holds all versions: whether older ones are removed in time depends on transactions in other databases.
    steps = 5
    # One connection, because each counts by itself before it reports.
    with closing(Database(database_url, pool_size=1)) as database:
        problem_id = submit(database)
        command = start(database)[problem_id]
        before = count_updates(database)
        for number in range(steps):
            now = NOW + timedelta(seconds=number)
            command = follow(hear(database, write(command, f"Step {number} of some length."), now=now))
        assert read(database, problem_id)["step_count"] == steps
        updates, hot = (after - earlier for after, earlier in zip(count_updates(database), before, strict=True))
        assert updates == steps
        assert hot == updates, f"only {hot} of {updates} updates stayed within their page"


def count_updates(database: Database) -> tuple[int, int]:
    """Count the updates of problems, and those that touched no index."""
    with database.begin() as connection:
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
    query = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'problems'"
    [found] = rows(database, query)
    return found["n_tup_upd"], found["n_tup_hot_upd"]
