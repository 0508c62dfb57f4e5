"""How the server carries out the statements of the store: along which indexes, and how many rows it reads.

The tables are as large as the planner needs to choose by itself. The statements are the product's own, with its
parameters; the server reports the plans with which it executed them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Connection, text
from uuid_utils.compat import uuid7

from services.api.exports.portions import RECORDED_PROBLEMS
from shared.domain.options import PolicyChoice
from shared.domain.roles import WorkerRole
from shared.store import batches, queries, records, verification
from shared.store.access import find_keys, list_keys, record_use
from shared.store.admission import find_attention, next_queued, record_processes
from shared.store.awaited import Try, release, submit_awaited
from shared.store.cancelling import begin_batch_cancel, count_uncancelled, request_batch_cancel, request_cancel
from shared.store.change_feed import list_changes
from shared.store.checks import Scope
from shared.store.database import Database
from shared.store.finding import LOOKED_AT, ProblemFilter, list_batch_problems, list_problems
from shared.store.notifications import FIND_OPEN, OPEN
from shared.store.port import SeenProcess
from shared.store.presence import count_waiting, find_untold
from shared.store.progress import Place, Sought, find_end, read_gained
from shared.store.pruning import prune_changes, prune_idempotency_keys, prune_inbox
from shared.store.quotas import BacklogFull, check_backlog
from shared.store.reasoning_state import PostgresStore
from shared.store.submissions import Idempotency, submit_batch, submit_problem
from shared.store.tables import DEFAULT_TENANT
from stack.scratch import scratch_database
from tests.integration.plans import Plan, explain_everything
from tests.integration.solving import NOW, hear, make_submission, start, submit, write

pytestmark = pytest.mark.servers

LARGE = {"batches", "problems", "steps", "decisions", "shadow_decisions", "inbox", "idempotency_keys", "changes"}

CROWDED = UUID(int=1)
QUIET = UUID(int=2)
QUEUED = 20_000
FINISHED = 10_000
PRUNED = 5_000
STEPS = 5
SHOWN_STEPS = 2
"""Steps of a problem that are read where it is shown."""

FILL = f"""
SET session_replication_role = replica; -- Skips the checks of foreign keys.
CREATE FUNCTION pg_temp.uuid_of(kind int, n int) RETURNS uuid LANGUAGE sql AS $$
    SELECT (lpad(to_hex(kind), 8, '0') || '-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid $$;
INSERT INTO batches (id, tenant_id, size)
SELECT pg_temp.uuid_of(1, n), '{CROWDED}', 10 FROM generate_series(1, {QUEUED} / 10) n;
INSERT INTO problems (id, tenant_id, batch_id, batch_index, question, policy, policy_revision, policy_parameters,
                      options)
SELECT pg_temp.uuid_of(2, n), '{CROWDED}', pg_temp.uuid_of(1, (n - 1) / 10 + 1), (n - 1) % 10, 'What?', 'threshold',
       1, '{{}}', '{{}}'
FROM generate_series(1, {QUEUED}) n;
INSERT INTO problems (id, tenant_id, question, policy, arm, policy_revision, policy_parameters, options, status,
                      started_at, finished_at, is_inbox_pruned)
SELECT pg_temp.uuid_of(3, n), lpad((n % 3)::text, 32, '0')::uuid, 'What?',
       CASE n % 10 WHEN 0 THEN 'random' ELSE 'threshold' END, CASE n % 20 WHEN 0 THEN 'a' WHEN 1 THEN 'b' END,
       1, '{{}}', '{{}}',
       CASE n % 10 WHEN 0 THEN 'failed' ELSE 'succeeded' END, now() - interval '30 days',
       now() - interval '30 days' + n * interval '1 minute', n <= {PRUNED}
FROM generate_series(1, {FINISHED}) n;
INSERT INTO steps (problem_id, step, author, text, finish, tokens, model, worker, waited_ms, worked_ms, accepted_at)
SELECT pg_temp.uuid_of(3, n), step, 'small', 'A step.', 'separator', 4, 'm', 'w', 1, 1, now()
FROM generate_series(1, {FINISHED}) n, generate_series(0, {STEPS - 1}) step;
INSERT INTO decisions (problem_id, number, decided_at, step, epoch, decided_by, policy, policy_revision, policy_digest,
                       action, reason, observation)
SELECT pg_temp.uuid_of(3, n), step, now(), step, 0, 'policy', 'threshold', 1, 'd', 'accept', 'why', '{{"score": 0.5}}'
FROM generate_series(1, {FINISHED}) n, generate_series(0, {STEPS - 1}) step;
INSERT INTO shadow_decisions (problem_id, number, shadow, decided_at, policy, policy_revision, policy_digest, action)
SELECT problem_id, number, 0, decided_at, 'random', 2, 'd', 'accept' FROM decisions;
INSERT INTO inbox (problem_id, id)
SELECT pg_temp.uuid_of(3, n), gen_random_uuid() FROM generate_series(1, {FINISHED}) n, generate_series(1, {2 * STEPS});
INSERT INTO changes (tenant_id, transaction_id, problem_id, status, changed_at)
SELECT '{QUIET}', n, pg_temp.uuid_of(3, n), 'queued', now() - interval '8 days' FROM generate_series(1, {FINISHED}) n;
INSERT INTO changes (tenant_id, problem_id, status)
SELECT '{CROWDED}', pg_temp.uuid_of(2, n), 'queued' FROM generate_series(1, {QUEUED}) n;
INSERT INTO idempotency_keys (tenant_id, key, request_digest, problem_id, created_at)
SELECT '{QUIET}', n::text, 'd', pg_temp.uuid_of(3, n), now() - interval '8 days' + n * interval '1 minute'
FROM generate_series(1, {FINISHED}) n;
"""
KEYS = f"""
INSERT INTO api_keys (id, tenant_id, name, prefix, secret_hash, scopes)
SELECT gen_random_uuid(), '{DEFAULT_TENANT}', 'k', 'p' || n, sha256(n::text::bytea), '{{read}}'
FROM generate_series(1, 5000) n
"""
BATCH = UUID("00000001-0000-7000-8000-000000000005")
FIRST_QUEUED = UUID("00000002-0000-7000-8000-000000000001")
RECORDED = UUID("00000003-0000-7000-8000-000000001b5b")


@pytest.fixture(scope="module")
def database(postgres_server: str) -> Iterator[Database]:
    with scratch_database(postgres_server) as url, closing(Database(url)) as made:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(FILL.encode())
            connection.execute("VACUUM ANALYZE")
        yield made


@pytest.fixture(scope="module")
def every_plan(database: Database) -> list[Plan]:
    database.engine.dispose()
    return explain_everything(database)


@pytest.fixture
def executed(every_plan: list[Plan]) -> list[Plan]:
    """Plans of what the test executes."""
    every_plan.clear()
    return every_plan


def find(executed: Sequence[Plan], beginning: str) -> Plan:
    found = [each for each in executed if each.statement.lstrip().startswith(beginning)]
    assert found, [each.statement for each in executed]
    return found[-1]


def check(executed: Sequence[Plan], *, rows: int) -> None:
    """Check that no statement scanned a large table, or read too many rows."""
    assert executed
    for plan in executed:
        assert not plan.scanned & LARGE, plan
        assert plan.rows_read <= rows, f"{plan.rows_read} rows\n{plan}"


def test_many_problems_are_locked_and_saved_by_their_keys(database: Database, executed: list[Plan]) -> None:
    count = 20
    shadow = PolicyChoice(name="small-only", revision=1, parameters={})
    ids = [submit(database, tenant_id=QUIET, shadows=[shadow]) for _ in range(count)]
    commands = {key: command for key, command in start(database).items() if key in ids}
    assert len(commands) == count
    executed.clear()
    hear(database, *(write(each, "A step.") for each in commands.values()))
    for beginning in ("SELECT problems.", "SELECT known.", "SELECT inbox.", "INSERT INTO inbox", "INSERT INTO steps",
                      "INSERT INTO decisions", "INSERT INTO shadow_decisions", "UPDATE problems"):  # fmt: skip
        find(executed, beginning)
    check(executed, rows=count * 4)


def test_an_inbox_is_read_for_its_problems_alone(database: Database, executed: list[Plan]) -> None:
    """Also with many problems and ids, and when the server has stopped planning for the values at hand."""
    problems = [UUID(int=RECORDED.int + number) for number in range(100)]
    heard = [UUID(int=number) for number in range(300)]
    store = PostgresStore(database)
    with store.begin() as transaction:
        for _ in range(12):
            transaction.lock(problems, heard=heard)
    of_inbox = [each for each in executed if each.statement.startswith("SELECT inbox")]
    assert len(of_inbox) == 12
    # An index probe for each pair of a problem and an id would read nothing, but descend 30,000 times.
    assert all(each["Actual Loops"] <= 100 for plan in of_inbox for each in plan.nodes if "Index Name" in each)
    check(executed, rows=100 * 2 * STEPS + 300)


@pytest.mark.parametrize("room", [1, 20])
def test_a_long_queue_is_not_read_to_admit_a_few(database: Database, executed: list[Plan], room: int) -> None:
    alone = submit(database, tenant_id=QUIET)
    executed.clear()
    with database.begin() as connection:
        running = count_running(connection)
        executed.clear()
        found = next_queued(connection, now=NOW, window=running + room, limit=200)
        connection.rollback()
    assert len(found) == room
    assert alone in found, "it waits behind no queue of another tenant"
    plan = find(executed, "WITH RECURSIVE")
    assert {"ix_problems_queued", "ix_problems_running"} <= plan.indexes, plan
    check(executed, rows=running + 4 * room + 30)


def test_a_queue_whose_role_is_away_is_not_read_to_admit_others(database: Database, executed: list[Plan]) -> None:
    """The plans of the long queue are of a kind that may not start."""
    plan = 'jsonb_build_object(\'plan\', \'{"drafts": false, "scores": false, "escalates": true}\'::jsonb)'
    with database.begin() as connection:
        connection.execute(text(f"UPDATE problems SET options = {plan} WHERE status = 'queued' AND options = '{{}}'"))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE problems"))
    alone = submit(database, tenant_id=CROWDED)
    with database.begin() as connection:
        running = count_running(connection)
        executed.clear()
        found = next_queued(connection, now=NOW, window=running + 20, limit=200, away={WorkerRole.LARGE})
        connection.rollback()
    assert alone in found
    assert "ix_problems_queued_plan" in find(executed, "WITH RECURSIVE").indexes
    check(executed, rows=3 * running + 200)


def test_attention_is_found_along_indexes(database: Database, executed: list[Plan]) -> None:
    with database.session() as session:
        assert request_cancel(session, CROWDED, UUID(int=FIRST_QUEUED.int + 10_000))
    executed.clear()
    with database.begin() as connection:
        running = count_running(connection)
        executed.clear()
        assert find_attention(connection, now=NOW, limit=50)
    plan = find(executed, "WITH chosen")
    assert {"ix_problems_cancelling", "ix_problems_deadline", "ix_problems_running"} <= plan.indexes, plan
    check(executed, rows=running + 50)


def test_problems_that_have_to_learn_what_is_away_are_found_among_the_running_ones(
    database: Database, executed: list[Plan]
) -> None:
    with database.begin() as connection:
        running = count_running(connection)
        executed.clear()
        find_untold(connection, list(WorkerRole), limit=50)
        assert count_waiting(connection) == {"small": 0, "large": 0, "prm": 0}
    for beginning in ("SELECT problems.id, problems.cancel_requested_at", "SELECT count(*)"):
        plan = find(executed, beginning)
        assert "ix_problems_running" in plan.indexes, plan
    check(executed, rows=2 * running + 50)


def test_inboxes_are_pruned_along_an_index_and_once(database: Database, executed: list[Plan]) -> None:
    pruned = []
    while True:
        executed.clear()
        with database.begin() as connection:
            pruned.append(prune_inbox(connection, now=NOW, limit=100))
        assert "ix_problems_unpruned" in find(executed, "SELECT problems.id").indexes
        check(executed, rows=100 * 4 * STEPS)
        if pruned[-1] == 0:
            break
    assert sum(pruned) == FINISHED - PRUNED
    check(executed, rows=0)


def test_a_retry_finds_its_problem_among_many_keys_and_a_client_that_leaves_cancels_it(
    database: Database, executed: list[Plan]
) -> None:
    first = Try(digest="a" * 64, is_retry=False)
    retry = Try(digest="a" * 64, is_retry=True)
    made: UUID = uuid7()
    with database.session() as session:
        submit_awaited(session, QUIET, make_submission(), first, problem_id=made, silence_s=15)
    executed.clear()
    with database.session() as session:
        stored, hold = submit_awaited(session, QUIET, make_submission(), retry, problem_id=uuid7(), silence_s=15)
        assert (stored.id, stored.is_new) == (made, False)
    check(executed, rows=10)
    assert "pk_idempotency_keys" in find(executed, "SELECT idempotency_keys.key").indexes
    with database.session() as session:
        assert release(session, hold)
    check(executed, rows=10)


def test_the_steps_of_several_problems_are_read_by_their_keys(database: Database, executed: list[Plan]) -> None:
    with database.session() as session:
        read = queries.list_steps_of(session, [RECORDED, FIRST_QUEUED])
    assert [len(read[each]) for each in (RECORDED, FIRST_QUEUED)] == [STEPS, 0]
    check(executed, rows=2 * STEPS)


def test_idempotency_keys_are_pruned_by_their_age(database: Database, executed: list[Plan]) -> None:
    with database.begin() as connection:
        assert prune_idempotency_keys(connection, now=NOW, limit=100) == 100
    assert "ix_idempotency_keys_created_at" in find(executed, "SELECT idempotency_keys").indexes
    assert find(executed, "DELETE FROM idempotency_keys").indexes == {"pk_idempotency_keys"}
    check(executed, rows=100)


def test_changes_are_listed_by_their_key_and_pruned_by_their_age(database: Database, executed: list[Plan]) -> None:
    with database.session() as session:
        cursor = None
        for _ in range(2):
            page = list_changes(session, CROWDED, limit=4, cursor=cursor)
            assert len(page.items) == 4
            cursor = page.next_cursor
    listed = [plan for plan in executed if plan.statement.startswith("SELECT changes")]
    assert [plan.indexes for plan in listed] == [{"pk_changes"}] * 2
    assert not any(plan.is_sorted for plan in listed)
    with database.begin() as connection:
        assert prune_changes(connection, now=NOW, limit=100) == 100
    assert "ix_changes_changed_at" in find(executed, "SELECT changes").indexes
    assert find(executed, "DELETE FROM changes").indexes == {"pk_changes"}
    check(executed, rows=100)


def test_heartbeats_are_recorded_by_name(database: Database, executed: list[Plan]) -> None:
    with database.begin() as connection:
        record_processes(connection, [SeenProcess("one", role="small", model="m", seen_at=NOW)])
    check(executed, rows=0)


def test_a_full_queue_is_not_counted_past_the_limit(database: Database, executed: list[Plan]) -> None:
    with database.session() as session, pytest.raises(BacklogFull):
        check_backlog(session, CROWDED, adding=5, max_queued=100)
    assert find(executed, "SELECT count(*)").indexes == {"ix_problems_queued"}
    check(executed, rows=100)


def test_keys_are_found_by_their_prefixes_and_listed_in_the_order_of_their_index(
    database: Database, executed: list[Plan]
) -> None:
    with database.begin() as connection:
        connection.execute(text(KEYS))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE api_keys, tenants"))
    executed.clear()
    with database.session() as session:
        found = find_keys(session, ["p7", "p8", "none"])
        assert {each.prefix for each in found} == {"p7", "p8"}
        page = list_keys(session, DEFAULT_TENANT, limit=4, cursor=None)
        assert list_keys(session, DEFAULT_TENANT, limit=4, cursor=page.next_cursor).items
    with database.begin() as connection:
        record_use(connection, [each.id for each in found])
    assert "uq_api_keys_prefix" in find(executed, "SELECT api_keys.id, api_keys.tenant_id, api_keys.prefix").indexes
    assert not any(plan.is_sorted for plan in executed if "LIMIT" in plan.statement)
    for plan in executed:
        assert "api_keys" not in plan.scanned, plan
        assert plan.rows_read <= 10, plan


def test_submissions_read_nothing(database: Database, executed: list[Plan]) -> None:
    idempotency = Idempotency(key="a key", digest="d")
    for _ in range(2):
        with database.session() as session:
            stored = submit_problem(session, QUIET, make_submission(), idempotency, silence_s=15)
    with database.session() as session:
        submit_batch(session, QUIET, [make_submission()] * 5, None, silence_s=15)
        request_cancel(session, QUIET, stored.id)
    # The rows that are read are those of foreign keys and the one that is cancelled.
    check(executed, rows=5)


LISTINGS = [
    (ProblemFilter(), {"ix_problems_tenant_id_id"}),
    (ProblemFilter(statuses=("queued",)), {"ix_problems_tenant_id_status_id", "ix_problems_queued"}),
    (ProblemFilter(statuses=("failed",)), {"ix_problems_tenant_id_status_id"}),
    (ProblemFilter(statuses=("succeeded",), policy="threshold"), {"ix_problems_tenant_id_policy_status_id"}),
    (ProblemFilter(policy="random"), {"ix_problems_tenant_id_policy_id"}),
    (ProblemFilter(arm="b"), {"ix_problems_tenant_id_arm_id_policy"}),
    (ProblemFilter(arm="b", statuses=("succeeded",)), {"ix_problems_tenant_id_arm_status_id_policy"}),
    (ProblemFilter(arm="b", policy="threshold"), {"ix_problems_tenant_id_arm_id_policy"}),
    (
        ProblemFilter(arm="b", statuses=("succeeded",), policy="threshold"),
        {"ix_problems_tenant_id_arm_status_id_policy"},
    ),
    (ProblemFilter(batch_id=BATCH), {"uq_problems_batch_id_batch_index"}),
]


@pytest.mark.parametrize(("wanted", "indexes"), LISTINGS)
def test_every_page_of_a_listing_is_read_in_the_order_of_an_index(
    database: Database, executed: list[Plan], wanted: ProblemFilter, indexes: set[str]
) -> None:
    cursor = None
    with database.session() as session:
        for _ in range(2):
            page = list_problems(session, CROWDED, wanted, limit=4, cursor=cursor)
            assert len(page.items) == 4
            cursor = page.next_cursor
    for plan in executed:
        assert plan.indexes <= indexes | {"pk_steps"}, plan
        assert not plan.is_sorted, plan
    check(executed, rows=5 * (1 + SHOWN_STEPS))


def id_time(identifier: UUID) -> datetime:
    """Return the time that an id has in its first 48 bits, as those of UUIDv7."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=identifier.int >> 80)


def test_a_range_of_times_is_a_range_of_an_index(database: Database, executed: list[Plan]) -> None:
    """The ids of a kind have one time; those of the next kind have a later one."""
    queued, ended = id_time(FIRST_QUEUED), id_time(RECORDED)
    wanted = [
        (ProblemFilter(created_before=ended), "queued"),
        (ProblemFilter(created_after=ended, created_before=ended + timedelta(days=900)), "ended"),
        (ProblemFilter(created_after=queued, created_before=ended, statuses=("queued",)), "queued"),
        (ProblemFilter(created_after=ended, created_before=ended + timedelta(days=900), statuses=("queued",)), None),
        (ProblemFilter(created_before=queued), None),
    ]
    with database.session() as session:
        for each, kind in wanted:
            items = list_problems(session, CROWDED, each, limit=4, cursor=None).items
            assert {"queued" if item.status == "queued" else "ended" for item in items} == ({kind} if kind else set())
    check(executed, rows=5 * (1 + SHOWN_STEPS))


@pytest.mark.parametrize("policy", [None, "threshold"])
@pytest.mark.parametrize("arm", [None, "b"])
def test_several_statuses_are_read_along_their_indexes(
    database: Database, executed: list[Plan], policy: str | None, arm: str | None
) -> None:
    wanted = ProblemFilter(statuses=("failed", "succeeded", "expired"), policy=policy, arm=arm)
    with database.session() as session:
        page = list_problems(session, CROWDED, wanted, limit=4, cursor=None)
        assert len(list_problems(session, CROWDED, wanted, limit=4, cursor=page.next_cursor).items) == 4
    assert all("status" in index or index.startswith("pk_") for plan in executed for index in plan.indexes)
    check(executed, rows=2 * 5 * (1 + SHOWN_STEPS))


@pytest.mark.parametrize("batch_id", [None, BATCH])
def test_a_condition_without_an_index_looks_at_a_bounded_number_of_problems(
    database: Database, executed: list[Plan], batch_id: UUID | None
) -> None:
    wanted = ProblemFilter(verdict="incorrect", has_escalations=True, batch_id=batch_id)
    with database.session() as session:
        page = list_problems(session, CROWDED, wanted, limit=4, cursor=None)
        assert list(page.items) == []
        assert (page.next_cursor is None) == (batch_id is not None), "the batch ends before the bound"
        assert not any(plan.is_sorted for plan in executed)
    check(executed, rows=LOOKED_AT)


def test_batches_are_listed_along_an_index_with_a_probe_for_each(database: Database, executed: list[Plan]) -> None:
    with database.session() as session:
        page = batches.list_batches(session, CROWDED, limit=4, cursor=None)
        assert len(batches.list_batches(session, CROWDED, limit=4, cursor=page.next_cursor).items) == 4
    for plan in executed:
        assert plan.indexes == {"ix_batches_tenant_id_id", "ix_problems_open_of_batch"}, plan
        assert not plan.is_sorted, plan
    check(executed, rows=5 * 2)


def test_a_batch_is_cancelled_along_its_open_problems(database: Database, executed: list[Plan]) -> None:
    batch_id = UUID(int=BATCH.int + 1)
    with database.session() as session:
        begin_batch_cancel(session, CROWDED, batch_id)
        first = request_batch_cancel(session, CROWDED, batch_id, after=None, limit=6)
        assert request_batch_cancel(session, CROWDED, batch_id, after=first.last, limit=6).count == 4
        assert count_uncancelled(session, CROWDED, batch_id) == 0
        session.rollback()
    for beginning in ("UPDATE batches", "WITH free", "SELECT count(*)"):
        assert "ix_problems_open_of_batch" in find(executed, beginning).indexes
    check(executed, rows=3 * 10)


def test_a_listing_without_problems_reads_none(database: Database, executed: list[Plan]) -> None:
    """The tenant has thousands of problems with the status or the policy alone."""
    with database.session() as session:
        for status, policy in (("succeeded", "random"), ("failed", "threshold"), ("queued", "random")):
            wanted = ProblemFilter(statuses=(status,), policy=policy)
            assert list_problems(session, CROWDED, wanted, limit=4, cursor=None).items == []
    check(executed, rows=0)


@pytest.mark.parametrize("status", [None, "succeeded"])
def test_a_policy_that_no_problem_of_an_arm_has_is_compared_in_the_index(
    database: Database, executed: list[Plan], status: str | None
) -> None:
    with database.session() as session:
        wanted = ProblemFilter(arm="b", policy="pomdp", statuses=() if status is None else (status,))
        assert list_problems(session, CROWDED, wanted, limit=4, cursor=None).items == []
    check(executed, rows=0)


def test_a_batch_is_read_along_its_index(database: Database, executed: list[Plan]) -> None:
    with database.session() as session:
        page = list_batch_problems(session, CROWDED, BATCH, limit=4, cursor=None)
        assert list_batch_problems(session, CROWDED, BATCH, limit=4, cursor=page.next_cursor).items
        assert not any(plan.is_sorted for plan in executed)
        assert len(batches.list_batch_ids(session, CROWDED, BATCH)) == 10
        summary = batches.read_batch(session, CROWDED, BATCH)
        assert summary is not None
        assert sum(summary.sums.statuses.values()) == 10
        assert batches.has_batch(session, CROWDED, BATCH)
    summed = find(executed, "SELECT problems.status")
    assert not {"steps", "decisions"} & {each.get("Relation Name") for each in summed.nodes}
    check(executed, rows=10)


def test_the_record_of_a_problem_is_read_by_its_id(database: Database, executed: list[Plan]) -> None:
    with database.session() as session:
        assert queries.read_status(session, CROWDED, RECORDED) == "succeeded"
        assert queries.read_problem(session, CROWDED, RECORDED)
        for list_ in (queries.list_steps, queries.list_decisions, queries.list_audit):
            page = list_(session, RECORDED, limit=2, cursor=None)
            assert len(page.items) == 2
            assert list_(session, RECORDED, limit=2, cursor=page.next_cursor).items
        assert len(queries.list_shadow_decisions(session, RECORDED, range(1, 3))) == 2
    assert find(executed, "SELECT shadow_decisions").indexes == {"pk_shadow_decisions"}
    check(executed, rows=4 * STEPS)


def test_streams_read_only_what_is_new_to_each_of_them(database: Database, executed: list[Plan]) -> None:
    recorded = [UUID(int=RECORDED.int + number) for number in range(50)]
    shadow = PolicyChoice(name="small-only", revision=1, parameters={})
    shadowed = [submit(database, tenant_id=QUIET, shadows=[shadow]) for _ in range(10)]
    hear(database, *(write(each, "A step.") for key, each in start(database).items() if key in shadowed))
    executed.clear()
    with database.snapshot() as session:
        sought = [Sought(each, Place(STEPS - 1, STEPS - 1)) for each in recorded]
        gained = read_gained(session, [*sought, *(Sought(each, Place()) for each in shadowed)])
        assert all(each is not None and len(each.rows) == 2 for each in gained)
        assert sum(len(each.shadows) for each in gained if each is not None) == len(shadowed)
    assert find(executed, "SELECT clients.client, shadow_decisions").indexes == {"pk_shadow_decisions"}
    check(executed, rows=60 * (3 + SHOWN_STEPS))
    executed.clear()
    with database.session() as session:
        session.connection().exec_driver_sql(FIND_OPEN, (recorded, OPEN))
        assert find_end(session, CROWDED, RECORDED) == Place()
    check(executed, rows=150)


def test_an_export_reads_what_was_recorded_of_its_problems_by_their_ids(
    database: Database, executed: list[Plan]
) -> None:
    """Also once the server has stopped planning for the values at hand."""
    ids = [UUID(int=RECORDED.int + number) for number in range(RECORDED_PROBLEMS)]
    with database.session() as session:
        for _ in range(7):
            assert sum(map(len, records.read_steps(session, ids).values())) == STEPS * RECORDED_PROBLEMS
            assert not records.read_escalated_drafts(session, ids)
    assert find(executed, "SELECT steps").indexes == {"pk_steps"}
    assert find(executed, "SELECT decisions").indexes == {"pk_decisions"}
    check(executed, rows=2 * STEPS * RECORDED_PROBLEMS)  # Each in the index, and in the table.


def count_running(connection: Connection) -> int:
    return int(connection.scalar(text("SELECT count(*) FROM problems WHERE status = 'running'")) or 0)


def test_the_check_of_one_problem_reads_no_other(database: Database, executed: list[Plan]) -> None:
    with database.begin() as connection:
        checked = connection.scalar(text("SELECT id FROM problems WHERE batch_id IS NOT NULL LIMIT 1"))
    executed.clear()
    assert isinstance(checked, UUID)
    with verification.snapshot(database) as connection:
        list(verification.verify(connection, [], Scope(problem=checked)))
    limited = [each for each in executed if "NOT MATERIALIZED" in each.statement]
    assert len(limited) == 2 * verification.COUNT
    for each in limited:
        assert not each.scanned & LARGE, each
        assert each.rows_read < 200, each
