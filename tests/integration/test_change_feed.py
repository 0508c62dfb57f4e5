"""The feed of changes: what is in it, and that a reader who keeps the cursor misses nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from shared.store.change_feed import CHANGES_KEPT, MARGIN, CursorExpired, list_changes
from shared.store.cursors import BadCursor, make_cursor
from shared.store.database import Database
from shared.store.pruning import prune_changes
from shared.store.submissions import submit_batch, submit_problem
from stack.scratch import scratch_database
from tests.integration.solving import empty, execute, make_submission, rows, solve

pytestmark = pytest.mark.servers

PATIENCE_S = 240.0
ONE, OTHER = UUID(int=1), UUID(int=2)


@pytest.fixture(scope="module")
def module_database(postgres_server: str) -> Iterator[Database]:
    with scratch_database(postgres_server) as url, closing(Database(url, pool_size=10)) as made:
        yield made


@pytest.fixture
def database(module_database: Database) -> Database:
    empty(module_database)
    return module_database


def submit(database: Database, tenant_id: UUID = ONE) -> UUID:
    with database.session() as session:
        return submit_problem(session, tenant_id, make_submission(), None, silence_s=15).id


def read(
    database: Database, cursor: str | None, *, limit: int = 100, from_now: bool = False
) -> tuple[list[tuple[UUID, str]], str]:
    with database.session() as session:
        page = list_changes(session, ONE, limit=limit, cursor=cursor, from_now=from_now)
    assert page.next_cursor is not None
    return [(each.problem_id, each.status) for each in page.items], page.next_cursor


def follow(
    database: Database, cursor: str | None, count: int, *, limit: int = 100
) -> tuple[list[tuple[UUID, str]], str]:
    """Read until a number of changes has come: transactions of other databases of the server hold the feed up, too."""
    changes: list[tuple[UUID, str]] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(changes) < count:
        assert time.monotonic() < deadline, changes
        more, cursor = read(database, cursor, limit=limit)
        changes += more
    assert cursor is not None
    return changes, cursor


def test_a_problem_is_listed_when_it_is_submitted_and_when_it_has_ended(database: Database) -> None:
    assert read(database, None)[0] == []
    first, second = submit(database), submit(database)
    submit(database, OTHER)
    changes, cursor = follow(database, None, 2)
    assert changes == [(first, "queued"), (second, "queued")]
    solve(database, second)
    assert follow(database, cursor, 1)[0] == [(second, "succeeded")]
    assert follow(database, cursor, 1)[0] == [(second, "succeeded")], "a cursor may be used again"


def test_a_batch_is_listed_in_its_order_however_it_is_paged(database: Database) -> None:
    with database.session() as session:
        submit_batch(session, ONE, [make_submission()] * 7, None, silence_s=15)
    ids = [row["id"] for row in rows(database, "SELECT id FROM problems ORDER BY batch_index")]
    changes, cursor = follow(database, None, 7, limit=2)
    assert [each for each, _ in changes] == ids
    assert read(database, cursor)[0] == []


def test_a_transaction_that_commits_late_is_not_missed(database: Database) -> None:
    with database.session() as session:
        late = submit_problem(session, ONE, make_submission(), None, silence_s=15).id
        early = submit(database)
        changes, cursor = read(database, None)
        assert changes == [], "a reader must not pass the open transaction"
    assert follow(database, cursor, 2)[0] == [(late, "queued"), (early, "queued")]


def test_a_submission_that_is_rolled_back_is_not_listed(database: Database) -> None:
    with database.session() as session:
        submit_problem(session, ONE, make_submission(), None, silence_s=15)
        session.rollback()
    kept = submit(database)
    assert follow(database, None, 1)[0] == [(kept, "queued")]


def test_a_reader_misses_nothing_while_transactions_commit_in_any_order(database: Database) -> None:
    lots = random.Random(7)
    pauses = [[lots.uniform(0, 0.02) for _ in range(15)] for _ in range(6)]

    def write(pauses_s: list[float]) -> list[UUID]:
        made = []
        for pause_s in pauses_s:
            with database.session() as session:
                made.append(submit_problem(session, ONE, make_submission(), None, silence_s=15).id)
                session.execute(text("SELECT pg_sleep(:pause_s)"), {"pause_s": pause_s})
        return made

    with ThreadPoolExecutor(len(pauses) + 1) as pool:
        reader = pool.submit(follow, database, None, 6 * 15, limit=5)
        made = [each for written in pool.map(write, pauses) for each in written]
        changes, cursor = reader.result()
    assert sorted(each for each, _ in changes) == sorted(made)
    assert read(database, cursor)[0] == []


def test_a_reader_may_begin_with_the_changes_to_come(database: Database) -> None:
    submit(database)
    follow(database, None, 1)
    changes, cursor = read(database, None, from_now=True)
    later = submit(database)
    assert changes == []
    assert follow(database, cursor, 1)[0] == [(later, "queued")]


def test_what_is_pruned_is_reached_by_no_cursor_that_is_valid(database: Database) -> None:
    old = submit(database)
    execute(database, "UPDATE changes SET changed_at = now() - :age", age=CHANGES_KEPT - MARGIN)
    changes, cursor = follow(database, None, 1, limit=1)
    assert changes == [(old, "queued")], "full, so the cursor is as old as the change"
    submit(database)
    execute(database, "UPDATE changes SET changed_at = now() - :age", age=CHANGES_KEPT + timedelta(minutes=30))
    assert read(database, None)[0] == []
    [row] = rows(database, "SELECT now() AS now")
    with database.begin() as connection:
        assert prune_changes(connection, now=row["now"]) == 0
        assert prune_changes(connection, now=row["now"] + 2 * MARGIN) == 2
    assert read(database, cursor)[0] == []
    expired = make_cursor("changes", "1", "0", (row["now"] - CHANGES_KEPT - 2 * MARGIN).isoformat())
    with pytest.raises(CursorExpired):
        read(database, expired)


def test_a_cursor_of_another_server_is_refused(database: Database) -> None:
    [row] = rows(database, "SELECT now() AS now")
    with pytest.raises(CursorExpired):
        read(database, make_cursor("changes", str(2**60), "0", row["now"].isoformat()))


@pytest.mark.parametrize(
    "place",
    [
        ["1", "1"],
        ["x", "1", "2026-01-01T00:00:00+00:00"],
        ["-1", "1", "2026-01-01T00:00:00+00:00"],
        ["1", str(2**63), "2026-01-01T00:00:00+00:00"],
        ["1", "1", "2026-01-01T00:00:00"],
        ["1", "1", "yesterday"],
        ["9" * 5000, "1", "2026-01-01T00:00:00+00:00"],
    ],
)
def test_a_cursor_that_the_feed_did_not_issue_is_refused(database: Database, place: list[str]) -> None:
    with pytest.raises(BadCursor):
        read(database, make_cursor("changes", *place))
