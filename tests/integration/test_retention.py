"""The SQL of docs/operations/retention.md, run exactly as printed there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import text

import migrations
from services.orchestrator.policy_cache import PolicyCache
from services.orchestrator.sweeping import attend
from shared.domain.options import PolicyChoice
from shared.messages import GenerateSteps
from shared.store import cancelling, queries, submissions
from shared.store.database import Database
from shared.store.reasoning_state import PostgresStore
from shared.store.tables import DEFAULT_TENANT
from tests.integration.solving import NOW, execute, follow, hear, report, rows, solve, start, submit, write

pytestmark = pytest.mark.servers

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "operations" / "retention.md").read_text()
BLOCKS = re.findall(r"```sql\n(.*?)```", DOCUMENT, re.DOTALL)
ERASE, *DECISIONS = BLOCKS[:6]
FIRST_ID, *STEPS = BLOCKS[6:11]
SHADOWS = BLOCKS[11:]
ACCEPTING = PolicyChoice(name="small-only", revision=1, parameters={})
TEXTS = ("Six sevens", "That makes", "Hence", "boxed", "6 times 7")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with closing(Database(database_url, pool_size=1)) as made:
        yield made


def run(database: Database, block: str) -> None:
    """Run a block in a separate session."""
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(block.encode())


def erase(database: Database, problem_id: UUID) -> None:
    run(database, ERASE.replace(":'problem'", f"'{problem_id}'"))


def read_audit(database: Database, problem_id: UUID) -> list[Any]:
    with database.session() as session:
        return list(queries.list_audit(session, problem_id, limit=100, cursor=None).items)


def everything(database: Database, problem_id: UUID) -> str:
    """Read all that is stored of a problem, as text."""
    found = rows(database, "SELECT problems::text FROM problems WHERE id = :id", id=problem_id)
    for table in ("steps", "decisions", "shadow_decisions", "inbox"):
        found += rows(database, f"SELECT {table}::text FROM {table} WHERE problem_id = :id", id=problem_id)
    return str(found)


# --- erasing --------------------------------------------------------------------------------------------------------


def test_an_erased_problem_has_no_text_and_all_its_numbers(database: Database) -> None:
    problem_id = submit(database, reference="42", shadows=[ACCEPTING])
    solve(database, problem_id)
    other = submit(database, reference="42")
    solve(database, other)
    before, kept = read_audit(database, problem_id), everything(database, other)
    assert all(each in everything(database, problem_id) for each in TEXTS)
    [counted] = rows(database, "SELECT * FROM problems WHERE id = :id", id=problem_id)

    erase(database, problem_id)

    found = everything(database, problem_id)
    assert not [each for each in TEXTS if each in found]
    after = read_audit(database, problem_id)
    assert [(each.step_text, each.draft_text) for each in after] == [("", None)] * 3
    same = ("number", "step", "action", "reason", "value", "observation", "draft_tokens", "step_tokens", "step_author")
    assert [[getattr(each, name) for name in same] for each in after] == [
        [getattr(each, name) for name in same] for each in before
    ]
    [row] = rows(database, "SELECT * FROM problems WHERE id = :id", id=problem_id)
    emptied = {"question": "", "reference": None, "answer": None, "erased_at": row["erased_at"]}
    assert row == counted | emptied
    assert row["erased_at"] is not None
    assert everything(database, other) == kept

    erase(database, problem_id)
    assert rows(database, "SELECT * FROM problems WHERE id = :id", id=problem_id) == [row]
    shadowed = rows(database, "SELECT number, agrees FROM shadow_decisions ORDER BY number")
    assert [tuple(each.values()) for each in shadowed] == [(0, True), (1, False), (2, True)]


def test_an_event_that_arrives_after_the_erasure_brings_no_text_back(database: Database) -> None:
    problem_id = submit(database, lookahead=2)
    command = start(database)[problem_id]
    hear(database, report(command, "Secret one.", "Secret two."))
    assert "Secret" in everything(database, problem_id)
    with database.session() as session:
        assert cancelling.request_cancel(session, DEFAULT_TENANT, problem_id)
    store = PostgresStore(database)
    attend(store, roles=lambda *_: None, policies=PolicyCache(store), now=lambda: NOW)
    erase(database, problem_id)
    hear(database, write(command, "Secret one.", "Secret two.", "Secret three."))
    assert "Secret" not in everything(database, problem_id)
    assert rows(database, "SELECT question, pending FROM problems") == [{"question": "", "pending": []}]


@pytest.mark.parametrize("status", ["queued", "running"])
def test_an_open_problem_is_not_erased(database: Database, status: str) -> None:
    problem_id = submit(database)
    if status == "running":
        start(database)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=f"is {status}: cancel it"):
        erase(database, problem_id)
    assert rows(database, "SELECT question, erased_at FROM problems") == [
        {"question": "What is 6 times 7?", "erased_at": None}
    ]


def test_an_unknown_problem_is_not_erased(database: Database) -> None:
    with pytest.raises(psycopg.errors.NoDataFound, match="there is no problem"):
        erase(database, UUID(int=7))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE decisions SET draft_text = 'Another.'",
        "UPDATE decisions SET draft_text = NULL, action = 'accept'",
        "DELETE FROM decisions",
    ],
)
def test_the_decisions_of_an_erased_problem_stay_append_only(database: Database, statement: str) -> None:
    problem_id = submit(database)
    solve(database, problem_id)
    erase(database, problem_id)
    with pytest.raises(Exception, match="append-only"), database.begin() as connection:
        connection.execute(text(statement))


DISGUISE = "CREATE TEMP TABLE problems AS SELECT id, now() AS erased_at, 'succeeded' AS status FROM public.problems"


@pytest.mark.parametrize(
    "preparation",
    [
        pytest.param(DISGUISE, id="a temporary table hides the problems"),
        pytest.param(f"{DISGUISE}; SET search_path = pg_temp, public", id="the search path begins with it"),
        pytest.param("UPDATE problems SET erased_at = now()", id="a running problem is marked as erased"),
    ],
)
def test_only_an_erased_problem_that_has_ended_loses_the_texts_of_its_decisions(
    database: Database, preparation: str
) -> None:
    running = submit(database)
    take_step(database, start(database)[running], now=NOW)
    with database.begin() as connection:
        connection.execute(text(preparation))
        change = text("UPDATE public.decisions SET draft_text = NULL WHERE problem_id = :id")
        with pytest.raises(Exception, match="append-only"):
            connection.execute(change, {"id": running})
        connection.rollback()


# --- partitions -----------------------------------------------------------------------------------------------------


def submit_in(database: Database, monkeypatch: pytest.MonkeyPatch, month: datetime) -> UUID:
    """Submit a problem at a given time, which its id begins with."""
    milliseconds = int(month.timestamp() * 1000)
    problem_id = UUID(int=(milliseconds << 80) | 0x7000_8000_0000_0000_0000)
    monkeypatch.setattr(submissions, "uuid7", lambda: problem_id)
    submit(database)
    execute(database, "UPDATE problems SET created_at = :month WHERE id = :id", id=problem_id, month=month)
    return problem_id


def take_step(database: Database, command: GenerateSteps, *, now: datetime) -> GenerateSteps:
    return follow(hear(database, write(command, f"Step {command.first_step}."), now=now))


def partitions(database: Database, table: str) -> dict[str, int]:
    query = f"SELECT tableoid::regclass::text AS name, count(*) AS rows FROM {table} GROUP BY 1"
    return {each["name"]: each["rows"] for each in rows(database, query)}


def check_append_only(database: Database, *names: str, parent: str = "decisions") -> None:
    """Check that a table has these partitions, and that it and each of them refuse every change."""
    found = rows(
        database, f"SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = '{parent}'::regclass"
    )
    assert {each["name"] for each in found} == {*names}
    for table in (parent, *names):
        for statement in (f"UPDATE {table} SET action = 'escalate'", f"DELETE FROM {table}", f"TRUNCATE {table}"):
            with pytest.raises(Exception, match="append-only"), database.begin() as connection:
                connection.execute(text(statement))


def test_decisions_are_partitioned_while_orchestrators_run(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    december, january, march, april = (datetime(2026 + (m < 12), m, 9, tzinfo=UTC) for m in (12, 1, 3, 4))
    problem_id = submit_in(database, monkeypatch, december)
    command = start(database, now=december)[problem_id]
    for _ in range(8):  # So that the driver has prepared the statements of this connection.
        command = take_step(database, command, now=december)

    check, convert, create, move, detach = DECISIONS
    run(database, check)
    run(database, convert)
    command = take_step(database, command, now=december)
    run(database, create)
    for moment in (january, january, march):
        command = take_step(database, command, now=moment)

    assert partitions(database, "decisions") == {
        "decisions_before_2027": 9,
        "decisions_2027_01": 2,
        "decisions_other": 1,
    }
    assert [each.number for each in read_audit(database, problem_id)] == list(range(12))
    check_append_only(database, "decisions_other", "decisions_before_2027", "decisions_2027_01")

    with pytest.raises(psycopg.errors.CheckViolation):
        run(database, create.replace("_01", "_03").replace("2027-02", "2027-04").replace("2027-01", "2027-03"))
    run(database, move)
    command = take_step(database, command, now=march)
    command = take_step(database, command, now=april)
    assert partitions(database, "decisions") == {
        "decisions_before_2027": 9,
        "decisions_2027_01": 2,
        "decisions_2027_03": 2,
        "decisions_other": 1,
    }
    assert [each.number for each in read_audit(database, problem_id)] == list(range(14))
    check_append_only(database, "decisions_other", "decisions_2027_03", "decisions_before_2027", "decisions_2027_01")

    run(database, detach)
    assert [each.number for each in read_audit(database, problem_id)] == [*range(9), 11, 12, 13]
    assert rows(database, "SELECT decision_count FROM problems") == [{"decision_count": 14}]
    take_step(database, command, now=march)
    run(database, "DROP TABLE decisions_2027_01;\n")
    assert len(read_audit(database, problem_id)) == 13


def test_steps_are_partitioned_while_orchestrators_run(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    december, january, march = (datetime(2026 + (m < 12), m, 9, tzinfo=UTC) for m in (12, 1, 3))
    old = submit_in(database, monkeypatch, december)
    command = start(database)[old]
    for _ in range(8):
        command = take_step(database, command, now=NOW)

    check, convert, create, detach = STEPS
    run(database, check)
    run(database, convert)
    run(database, create)
    take_step(database, command, now=NOW)
    ids = [submit_in(database, monkeypatch, each) for each in (january, march)]
    commands = start(database)
    for each in ids:
        # A large step gets its score later: the update of a step finds its partition as well.
        command = follow(hear(database, write(commands[each], "Bad.", score=0.1)))
        command = follow(hear(database, write(command, "Good.")))
        take_step(database, command, now=NOW)

    assert partitions(database, "steps") == {"steps_before_2027": 9, "steps_2027_01": 2, "steps_other": 2}
    assert [each.step_score for each in read_audit(database, ids[0])] == [0.5, 0.9]
    with PostgresStore(database).begin() as transaction:
        locked = transaction.lock([old, *ids])
    assert [len(each.state.steps) for each in locked.values()] == [9, 2, 2]

    run(database, detach)
    assert [each.step_text for each in read_audit(database, ids[0])] == [None, None]
    assert [each.step_text for each in read_audit(database, ids[1])] == ["Good.", "Step 1."]


def test_the_decisions_of_shadows_are_partitioned_while_orchestrators_run(database: Database) -> None:
    december, january, march = (datetime(2026 + (m < 12), m, 9, tzinfo=UTC) for m in (12, 1, 3))
    problem_id = submit(database, shadows=[ACCEPTING])
    command = start(database, now=december)[problem_id]
    for _ in range(8):
        command = take_step(database, command, now=december)

    check, convert, create, detach = SHADOWS
    run(database, check)
    run(database, convert)
    run(database, create)
    for moment in (december, january, march):
        command = take_step(database, command, now=moment)

    names = ("shadow_decisions_before_2027", "shadow_decisions_2027_01", "shadow_decisions_other")
    assert partitions(database, "shadow_decisions") == dict(zip(names, (9, 1, 1), strict=True))
    check_append_only(database, *names, parent="shadow_decisions")
    run(database, detach)
    assert rows(database, "SELECT count(*) FROM shadow_decisions") == [{"count": 10}]
    take_step(database, command, now=march)


def test_a_month_begins_with_the_id_that_the_document_computes(database: Database) -> None:
    [[first]] = [tuple(each.values()) for each in rows(database, FIRST_ID.strip().removesuffix(";"))]
    assert str(first) in STEPS[0]
    moment = datetime(2027, 1, 1, tzinfo=UTC).timestamp() * 1000
    assert first.int >> 80 == moment


def test_partitions_are_no_drift(database_url: str, database: Database) -> None:
    for block in (*DECISIONS[:4], *STEPS[:3], *SHADOWS[:3]):
        run(database, block)
    migrations.check(database_url)
    run(database, DECISIONS[4])
    with pytest.raises(migrations.Drifted, match="decisions_2027_01"):
        migrations.check(database_url)


def test_the_schema_goes_back_and_forth_after_a_month_of_shadow_decisions_was_detached(
    database: Database, database_url: str
) -> None:
    for block in SHADOWS:
        run(database, block)
    migrations.downgrade(database_url, "0002")
    assert rows(database, "SELECT count(*) FROM shadow_decisions_2027_01") == [{"count": 0}]
    migrations.upgrade(database_url)
    run(database, "DROP TABLE shadow_decisions_2027_01")
    migrations.check(database_url)


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    """A role without privileges."""
    name = f"trim_test_{uuid4().hex[:8]}"
    run(database, f"CREATE ROLE {name}")
    yield name
    run(database, f"DROP OWNED BY {name}; DROP ROLE {name}")


GRANTS = """
SELECT relname, privilege_type, grantee, is_grantable FROM pg_class, aclexplode(relacl)
WHERE relname IN ('audit', 'decisions', 'shadow_decisions', 'steps') ORDER BY relname, privilege_type, grantee
"""


def test_other_roles_keep_their_privileges_on_what_is_partitioned(database: Database, role: str) -> None:
    run(database, f"GRANT SELECT, INSERT ON decisions, steps, shadow_decisions TO {role}")
    run(database, f"GRANT SELECT ON audit TO {role}")
    run(database, f"GRANT UPDATE ON steps TO {role} WITH GRANT OPTION; GRANT SELECT ON steps, decisions TO PUBLIC")
    run(database, "CREATE VIEW audited AS SELECT DISTINCT problem_id FROM audit")
    solve(database, submit(database))
    granted = rows(database, GRANTS)

    for block in (*DECISIONS[:4], *STEPS[:3], *SHADOWS[:3]):
        run(database, block)

    assert rows(database, GRANTS) == granted
    assert rows(database, "SELECT count(*) FROM audited") == [{"count": 1}]
    with database.begin() as connection:
        connection.execute(text(f"SET LOCAL ROLE {role}"))
        for table in ("audit", "decisions", "steps"):
            assert connection.scalar(text(f"SELECT count(*) FROM {table}")) == 3
        connection.execute(text("INSERT INTO decisions SELECT * FROM decisions WHERE false"))


def test_an_erasure_reaches_partitions(database: Database) -> None:
    problem_id = submit(database)
    for block in (*DECISIONS[:2], *STEPS[:2]):
        run(database, block)
    solve(database, problem_id)
    erase(database, problem_id)
    found = everything(database, problem_id)
    assert not [each for each in TEXTS if each in found]
