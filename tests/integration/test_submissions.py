"""Submissions and listings: their order, retries with a key, and what one tenant cannot reach of another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from shared.store import batches, queries
from shared.store.cancelling import begin_batch_cancel, count_uncancelled, request_batch_cancel, request_cancel
from shared.store.cursors import BadCursor, make_cursor
from shared.store.database import Database, DatabaseUnavailable
from shared.store.finding import ProblemFilter, list_batch_problems, list_problems
from shared.store.pruning import IDEMPOTENCY_KEYS_KEPT, prune_idempotency_keys
from shared.store.submissions import Idempotency, IdempotencyConflict, Stored, submit_batch, submit_problem
from stack.scratch import scratch_database
from tests.integration.solving import NOW, empty, execute, make_submission, rows, solve, submit

pytestmark = pytest.mark.servers

ONE, OTHER = UUID(int=1), UUID(int=2)
KEY = Idempotency(key="key", digest="digest")
ANOTHER_BODY = Idempotency(key="key", digest="another digest")

ALL = ProblemFilter()

Submit = Callable[[Database, UUID, Idempotency | None], Stored]


@pytest.fixture(scope="module")
def shared_database(postgres_server: str) -> Iterator[Database]:
    with scratch_database(postgres_server) as url, closing(Database(url, pool_size=10)) as made:
        yield made


@pytest.fixture
def database(shared_database: Database) -> Database:
    empty(shared_database)
    return shared_database


def submit_one(database: Database, tenant_id: UUID, idempotency: Idempotency | None) -> Stored:
    with database.session() as session:
        return submit_problem(session, tenant_id, make_submission(), idempotency, silence_s=15)


def submit_two(database: Database, tenant_id: UUID, idempotency: Idempotency | None) -> Stored:
    with database.session() as session:
        return submit_batch(session, tenant_id, [make_submission()] * 2, idempotency, silence_s=15)


def list_ids(database: Database, tenant_id: UUID, wanted: ProblemFilter = ALL, *, limit: int = 3) -> list[UUID]:
    """List all pages."""
    found: list[UUID] = []
    cursor = None
    while True:
        with database.session() as session:
            page = list_problems(session, tenant_id, wanted, limit=limit, cursor=cursor)
        found += [each.id for each in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return found


# --- order ----------------------------------------------------------------------------------------------------------


def test_ids_that_one_process_makes_rise_also_within_a_millisecond() -> None:
    made = [uuid7() for _ in range(50_000)]
    assert made == sorted(set(made))
    assert len({each.int >> 80 for each in made}) < len(made) / 10, "many share a millisecond"
    assert {each.version for each in made} == {7}


def test_problems_are_listed_newest_first(database: Database) -> None:
    ids = [submit(database, tenant_id=ONE) for _ in range(4)]
    with database.session() as session:
        batch = submit_batch(session, ONE, [make_submission()] * 4, None, silence_s=15)
        of_batch = list(batches.list_batch_ids(session, ONE, batch.id))
    ids += of_batch
    assert list_ids(database, ONE) == ids[::-1]
    assert list_ids(database, ONE, ProblemFilter(batch_id=batch.id)) == of_batch[::-1]
    assert list_ids(database, ONE, ProblemFilter(statuses=("queued",), policy="threshold"), limit=1) == ids[::-1]
    assert list_ids(database, ONE, ProblemFilter(statuses=("running",))) == []
    assert list_ids(database, ONE, ProblemFilter(policy="random")) == []
    assert list_ids(database, ONE, ProblemFilter(batch_id=batch.id, statuses=("running",))) == []
    assert list_ids(database, ONE, ProblemFilter(batch_id=batch.id, policy="random")) == []


def test_a_batch_is_listed_in_the_order_of_its_submission(database: Database) -> None:
    with database.session() as session:
        batch = submit_batch(session, ONE, [make_submission(f"{number}?") for number in range(5)], None, silence_s=15)
        first = list_batch_problems(session, ONE, batch.id, limit=3, cursor=None)
        second = list_batch_problems(session, ONE, batch.id, limit=3, cursor=first.next_cursor)
    assert [each.question for each in (*first.items, *second.items)] == [f"{number}?" for number in range(5)]
    assert [each.batch_index for each in (*first.items, *second.items)] == list(range(5))
    assert second.next_cursor is None


def test_new_problems_do_not_shift_the_pages(database: Database) -> None:
    ids = [submit(database, tenant_id=ONE) for _ in range(4)]
    with database.session() as session:
        page = list_problems(session, ONE, ProblemFilter(), limit=2, cursor=None)
    submit(database, tenant_id=ONE)
    with database.session() as session:
        rest = list_problems(session, ONE, ProblemFilter(), limit=9, cursor=page.next_cursor)
    assert [each.id for each in (*page.items, *rest.items)] == ids[::-1]


@pytest.mark.parametrize("cursor", ["", "nonsense", make_cursor("problems", "x"), make_cursor("problems", 1)])
def test_a_cursor_that_the_listing_did_not_issue_is_refused(database: Database, cursor: str) -> None:
    with database.session() as session:
        with pytest.raises(BadCursor):
            list_problems(session, ONE, ProblemFilter(), limit=1, cursor=cursor)
        with pytest.raises(BadCursor):
            list_problems(session, ONE, ProblemFilter(batch_id=uuid4()), limit=1, cursor=cursor)
        with pytest.raises(BadCursor):
            list_batch_problems(session, ONE, uuid4(), limit=1, cursor=cursor)


def test_a_batch_is_summed_up_from_the_counters_of_its_problems(database: Database) -> None:
    with database.session() as session:
        batch = submit_batch(session, ONE, [make_submission(reference="42")] * 3, None, silence_s=15)
        [solved, cancelled, _] = batches.list_batch_ids(session, ONE, batch.id)
    solve(database, solved)
    with database.session() as session:
        request_cancel(session, ONE, cancelled)
    execute(database, "UPDATE problems SET status = 'cancelled' WHERE id = :id", id=cancelled)
    with database.session() as session:
        summary = batches.read_batch(session, ONE, batch.id)
    assert summary is not None
    sums = summary.sums
    assert (summary.batch.id, summary.batch.size, sums.size) == (batch.id, 3, 3)
    assert (sums.statuses, sums.verdicts) == ({"succeeded": 1, "cancelled": 1, "running": 1}, {"correct": 1})
    assert (sums.step_count, sums.escalation_count) == (3, 1)
    assert (sums.ledger.small_kept, sums.ledger.large_out, sums.ledger.prm_calls) == (10, 5, 3)
    assert summary.arms == {}


# --- retries --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("submit_", [submit_one, submit_two])
def test_a_retry_returns_the_first_result(database: Database, submit_: Submit) -> None:
    first, again = submit_(database, ONE, KEY), submit_(database, ONE, KEY)
    assert (first.is_new, again.is_new) == (True, False)
    assert first.id == again.id
    assert len(rows(database, "SELECT 1 FROM problems")) == (1 if submit_ is submit_one else 2)
    assert submit_(database, ONE, None).is_new


@pytest.mark.parametrize(
    ("first", "then", "idempotency"),
    [
        (submit_one, submit_one, ANOTHER_BODY),
        (submit_two, submit_two, ANOTHER_BODY),
        (submit_one, submit_two, KEY),
        (submit_two, submit_one, KEY),
    ],
)
def test_a_key_belongs_to_one_request_whatever_the_endpoint(
    database: Database, first: Submit, then: Submit, idempotency: Idempotency
) -> None:
    stored = first(database, ONE, KEY)
    with pytest.raises(IdempotencyConflict):
        then(database, ONE, idempotency)
    assert first(database, ONE, KEY) == Stored(stored.id, is_new=False)


def test_two_tenants_may_use_the_same_key(database: Database) -> None:
    assert submit_one(database, ONE, KEY).is_new
    assert submit_two(database, OTHER, ANOTHER_BODY).is_new


@pytest.mark.parametrize("submit_", [submit_one, submit_two])
def test_requests_with_one_key_at_the_same_time_store_one_result(database: Database, submit_: Submit) -> None:
    count = 6
    together = threading.Barrier(count)

    def submit_together(_: int) -> Stored:
        together.wait()
        return submit_(database, ONE, KEY)

    with ThreadPoolExecutor(count) as pool:
        stored = list(pool.map(submit_together, range(count)))
    assert len({each.id for each in stored}) == 1
    assert [each.is_new for each in stored].count(True) == 1
    assert len(rows(database, "SELECT 1 FROM problems")) == (1 if submit_ is submit_one else 2)


def test_a_key_whose_request_was_rolled_back_is_free(database: Database) -> None:
    def submit_and_die() -> None:
        with database.session() as session:
            submit_problem(session, ONE, make_submission(), KEY, silence_s=15)
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(DatabaseUnavailable):
        submit_and_die()
    assert rows(database, "SELECT 1 FROM problems") == []
    assert submit_one(database, ONE, KEY).is_new


def test_a_key_is_kept_for_seven_days(database: Database) -> None:
    stored = submit_one(database, ONE, KEY)
    [row] = rows(database, "SELECT created_at FROM idempotency_keys")
    assert timedelta(days=7) == IDEMPOTENCY_KEYS_KEPT
    for age, pruned in ((IDEMPOTENCY_KEYS_KEPT, 0), (IDEMPOTENCY_KEYS_KEPT + timedelta(seconds=1), 1)):
        assert submit_one(database, ONE, KEY) == Stored(stored.id, is_new=False)
        with database.begin() as connection:
            assert prune_idempotency_keys(connection, now=row["created_at"] + age) == pruned
    assert submit_one(database, ONE, KEY).is_new


def test_a_retry_while_its_key_is_pruned_waits_and_submits_again(database: Database) -> None:
    first = submit_one(database, ONE, KEY)
    with ThreadPoolExecutor(1) as pool:
        with database.begin() as connection:
            assert prune_idempotency_keys(connection, now=NOW + timedelta(days=8)) == 1
            waiting = pool.submit(submit_one, database, ONE, KEY)
            while not rows(
                database,
                "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
            ):
                assert not waiting.done()
        stored = waiting.result()
    assert stored.is_new
    assert stored.id != first.id


# --- tenants --------------------------------------------------------------------------------------------------------


@pytest.fixture
def mine(database: Database) -> dict[str, Any]:
    """A problem and a batch of one tenant, beside those of another."""
    for tenant_id in (ONE, OTHER):
        stored, batch = submit_one(database, tenant_id, None), submit_two(database, tenant_id, None)
    return {"problem": stored.id, "batch": batch.id}


def test_no_query_finds_a_row_of_another_tenant(database: Database, mine: dict[str, Any]) -> None:
    problem_id, batch_id = mine["problem"], mine["batch"]
    with database.session() as session:
        for tenant_id, is_found in ((OTHER, True), (ONE, False), (UUID(int=3), False)):
            page = list_batch_problems(session, tenant_id, batch_id, limit=9, cursor=None)
            assert bool(page.items) is is_found
            found: list[Any] = [
                queries.read_problem(session, tenant_id, problem_id),
                queries.read_status(session, tenant_id, problem_id),
                batches.read_batch(session, tenant_id, batch_id),
                batches.list_batch_ids(session, tenant_id, batch_id),
                batches.has_batch(session, tenant_id, batch_id),
                batches.list_batches(session, tenant_id, limit=9, cursor=None).items,
                count_uncancelled(session, tenant_id, batch_id),
            ]
            found[-2] = batch_id in {each.batch.id for each in found[-2]}
            assert [bool(each) for each in found] == [is_found] * len(found)
            listed = [
                list_problems(session, tenant_id, wanted, limit=99, cursor=None).items
                for wanted in (
                    ProblemFilter(),
                    ProblemFilter(statuses=("queued",)),
                    ProblemFilter(policy="threshold"),
                    ProblemFilter(statuses=("queued",), policy="threshold"),
                    ProblemFilter(batch_id=batch_id),
                )
            ]
            assert [problem_id in {each.id for each in items} for items in listed[:4]] == [is_found] * 4
            assert bool(listed[4]) is is_found
            assert {each.tenant_id for items in listed for each in items} <= {tenant_id}


def test_a_cursor_of_another_tenant_gives_only_rows_of_ones_own(database: Database, mine: dict[str, Any]) -> None:
    with database.session() as session:
        cursor = list_problems(session, OTHER, ProblemFilter(), limit=1, cursor=None).next_cursor
        page = list_problems(session, ONE, ProblemFilter(), limit=99, cursor=cursor)
    assert {each.tenant_id for each in page.items} == {ONE}
    assert len(page.items) == 3


def test_a_problem_of_another_tenant_cannot_be_cancelled(database: Database, mine: dict[str, Any]) -> None:
    with database.session() as session:
        assert not request_cancel(session, ONE, mine["problem"])
    assert rows(database, "SELECT 1 FROM problems WHERE cancel_requested_at IS NOT NULL") == []
    with database.session() as session:
        assert request_cancel(session, OTHER, mine["problem"])


def test_a_batch_of_another_tenant_cannot_be_cancelled(database: Database, mine: dict[str, Any]) -> None:
    for tenant_id, count in ((ONE, 0), (OTHER, 2)):
        with database.session() as session:
            begin_batch_cancel(session, tenant_id, mine["batch"])
            assert request_batch_cancel(session, tenant_id, mine["batch"], after=None).count == count
        of_batches = rows(database, "SELECT 1 FROM batches WHERE cancel_requested_at IS NOT NULL")
        assert len(of_batches) == count / 2
    assert len(rows(database, "SELECT 1 FROM problems WHERE cancel_requested_at IS NOT NULL")) == 2


def test_a_cancellation_of_an_ended_problem_changes_nothing(database: Database) -> None:
    problem_id = submit(database, tenant_id=ONE)
    solve(database, problem_id)
    before = rows(database, "SELECT * FROM problems")
    with database.session() as session:
        assert not request_cancel(session, ONE, problem_id)
    assert rows(database, "SELECT * FROM problems") == before


def test_a_second_cancellation_keeps_the_time_of_the_first(database: Database) -> None:
    problem_id = submit(database, tenant_id=ONE)
    recorded = []
    for _ in range(2):
        with database.session() as session:
            assert request_cancel(session, ONE, problem_id)
        recorded += rows(database, "SELECT cancel_requested_at FROM problems")
    assert recorded[0] == recorded[1]
