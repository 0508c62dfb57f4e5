"""The schema's migrations: up, down, in phases, against locks, and against what the code describes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import make_url

import migrations
from migrations import session
from migrations.phases import FILE_NAME, Phase
from shared.errors import explain
from shared.store.compatibility import REVISION, CodeOutdated, Fit, Schema, SchemaOutdated, read_schema
from shared.store.database import Database

pytestmark = pytest.mark.servers

PATIENCE_S = 240.0
SAMPLES = Path(__file__).parent / "sample_migrations"

LEFT = """
SELECT 'relation ' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public'
UNION ALL
SELECT 'function ' || p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'public'
UNION ALL
SELECT 'type ' || t.typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname = 'public'
"""


@pytest.fixture
def empty_url(postgres_server: str) -> Iterator[str]:
    """URL of a fresh database that was never migrated."""
    name = f"trim_empty_{uuid.uuid4().hex[:8]}"
    execute(postgres_server, f"CREATE DATABASE {name}")
    try:
        yield make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
    finally:
        execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def inventory(url: str) -> set[str]:
    """Everything in the public schema but Alembic's own table."""
    names = {str(row[0]) for row in rows(url, LEFT)}
    return {each for each in names if "alembic_version" not in each}


def schema(url: str) -> Schema:
    with closing(Database(url)) as database, database.begin() as connection:
        return read_schema(connection)


def write(folder: Path, revision: str, *statements: str, after: str = REVISION) -> None:
    """Write a migration of statements in Python; the way back does nothing."""
    (folder / f"{revision}_expand_sample.py").write_text(
        "\n".join(
            [
                "from alembic import op",
                "from migrations import phases",
                f"revision, down_revision, branch_labels, depends_on = {revision!r}, {after!r}, None, None",
                "def upgrade():",
                *(f"    {each}" for each in statements),
                "def downgrade():",
                "    pass",
            ]
        )
    )


def run(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "migrations", *arguments],
        env={**os.environ, "TRIM_DATABASE_URL": url},
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip


# What the files state


@pytest.mark.parametrize("versions", [(), (SAMPLES,)], ids=["versions", "samples"])
def test_the_files_name_revision_and_phase_and_form_one_line(versions: tuple[Path, ...]) -> None:
    script = ScriptDirectory.from_config(migrations.config("", *versions))
    line = [*script.walk_revisions()][::-1]
    files = {path.name for folder in (migrations.VERSIONS, *versions) for path in folder.glob("*.py")}
    assert {Path(each.path).name for each in line} == files
    assert [each.down_revision for each in line] == [None, *(each.revision for each in line[:-1])]
    for each in line:
        name = FILE_NAME.fullmatch(Path(each.path).name)
        assert name, each.path
        assert name["revision"] == each.revision


def test_the_newest_migration_is_the_codes_revision_and_no_number_is_left_out() -> None:
    script = ScriptDirectory.from_config(migrations.config(""))
    assert script.get_heads() == [REVISION]
    assert [int(each.revision) for each in script.walk_revisions()] == [*range(int(REVISION), 0, -1)]


def test_an_expand_migration_keeps_the_oldest_code_and_a_contract_raises_it_until_its_downgrade(empty_url: str) -> None:
    script = ScriptDirectory.from_config(migrations.config("", SAMPLES))
    oldest = {}
    seen = set()
    for each in reversed([*script.walk_revisions()]):
        before = schema(empty_url)
        migrations.upgrade(empty_url, each.revision, SAMPLES)
        after = schema(empty_url).oldest_code
        assert after is not None
        assert after <= each.revision, "a schema that no code can run on"
        name = FILE_NAME.fullmatch(Path(each.path).name)
        assert name
        seen.add(name["phase"])
        if before.oldest_code is not None:
            assert (before.oldest_code < after) == (name["phase"] == Phase.CONTRACT), each.path
        migrations.downgrade(empty_url, before.revision or "base", SAMPLES)
        assert schema(empty_url) == before
        migrations.upgrade(empty_url, each.revision, SAMPLES)
        oldest[each.revision] = after
    assert seen == {*Phase}
    assert (oldest["0001"], oldest["9002"], oldest["9003"]) == ("0001", "0001", "9001")


@pytest.mark.parametrize("phase", [*Phase])
def test_a_new_migration_gets_the_next_number_and_a_file_that_runs(
    tmp_path: Path, database_url: str, phase: Phase
) -> None:
    made = migrations.new(phase, "Add leases", tmp_path)
    following = f"{int(REVISION) + 1:04}"
    assert made == tmp_path / f"{following}_{phase}_add_leases.py"
    assert FILE_NAME.fullmatch(made.name)
    written = made.read_text()
    assert ("retire_code_before" in written) == (phase is Phase.CONTRACT)
    made.write_text(written.replace('"..."', '"0001"'))
    assert migrations.upgrade(database_url, "head", tmp_path) == f"{following} (it was {REVISION})"
    migrations.downgrade(database_url, REVISION, tmp_path)
    assert schema(database_url).revision == REVISION


# Up and down


def test_the_way_down_leaves_nothing_and_the_way_up_brings_all_back(empty_url: str) -> None:
    assert inventory(empty_url) == set()
    migrations.upgrade(empty_url)
    everything = inventory(empty_url)
    assert {"relation problems", "relation decisions", "relation audit", "function refuse_change"} <= everything
    migrations.downgrade(empty_url, "base")
    assert inventory(empty_url) == set()
    assert schema(empty_url) == Schema(None, None)
    migrations.upgrade(empty_url)
    assert inventory(empty_url) == everything
    migrations.check(empty_url)


def test_what_code_before_arms_and_shadows_writes_has_neither_before_and_after_the_upgrade(empty_url: str) -> None:
    insertion = (
        "INSERT INTO problems (id, question, policy, policy_revision, policy_parameters, options)"
        " VALUES (gen_random_uuid(), 'What?', 'threshold', 1, '{}', '{}')"
    )
    migrations.upgrade(empty_url, "0002")
    execute(empty_url, insertion)
    migrations.upgrade(empty_url)
    execute(empty_url, insertion)
    assert rows(empty_url, "SELECT arm, shadows FROM problems") == [(None, [])] * 2


def test_new_stop_reasons_are_allowed_from_their_migration_on_and_replaced_by_the_way_down(empty_url: str) -> None:
    def insert(reason: str) -> None:
        execute(
            empty_url,
            "INSERT INTO problems (id, question, policy, policy_revision, policy_parameters, options, stop_reason)"
            f" VALUES (gen_random_uuid(), 'What?', 'threshold', 1, '{{}}', '{{}}', '{reason}')",
        )

    migrations.upgrade(empty_url, "0004")
    with pytest.raises(psycopg.errors.CheckViolation):
        insert("step_cut")
    insert("max_steps")
    migrations.upgrade(empty_url, "0005")
    for reason in ("step_cut", "repeated"):
        insert(reason)
    with pytest.raises(psycopg.errors.CheckViolation):
        insert("tired")
    migrations.downgrade(empty_url, "0004")
    found = rows(empty_url, "SELECT stop_reason FROM problems")
    assert sorted(found) == [("degenerate",), ("max_steps",), ("token_limit",)]
    with pytest.raises(psycopg.errors.CheckViolation):
        insert("repeated")


def test_an_upgrade_of_what_is_up_changes_nothing(database_url: str) -> None:
    before = inventory(database_url)
    assert migrations.upgrade(database_url) == f"{REVISION} (nothing to do)"
    assert inventory(database_url) == before
    assert schema(database_url).revision == REVISION


def test_a_newer_schema_stays_as_it_is_if_it_allows_this_version(database_url: str) -> None:
    execute(database_url, "UPDATE alembic_version SET version_num = '9999'")
    assert "9999 (newer than" in run(database_url, "upgrade").stdout
    execute(database_url, "UPDATE schema_compatibility SET oldest_code = '9000'")
    with pytest.raises(CodeOutdated, match="9000"):
        migrations.upgrade(database_url)


def test_a_database_that_cannot_be_migrated_is_reported_in_one_sentence(database_url: str) -> None:
    execute(database_url, "UPDATE alembic_version SET version_num = '0000'")
    for url, said in (
        (database_url, "0000"),
        ("postgresql://postgres@127.0.0.1:1/x", "does not answer"),
        (make_url(database_url).set(database="no_such").render_as_string(hide_password=False), "no_such"),
        ("", "TRIM_DATABASE_URL is not set"),
    ):
        done = run(url, "upgrade")
        assert done.returncode in (1, 2)
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


# One transaction per migration, one process at a time, short timeouts


def test_the_first_of_two_migrations_stays_committed_when_the_second_fails(tmp_path: Path, database_url: str) -> None:
    write(tmp_path, "9001", "op.execute('CREATE TABLE first ()')")
    write(tmp_path, "9002", "op.execute('CREATE TABLE second ()')", "op.execute('SELECT 1 / 0')", after="9001")
    with pytest.raises(migrations.CannotMigrate, match="stays at 9001") as failure:
        migrations.upgrade(database_url, "head", tmp_path)
    assert "division by zero" in explain(failure.value)
    assert schema(database_url).revision == "9001"
    assert "relation first" in inventory(database_url)
    assert "relation second" not in inventory(database_url)

    write(tmp_path, "9002", "op.execute('CREATE TABLE second ()')", after="9001")
    assert migrations.upgrade(database_url, "head", tmp_path) == "9002 (it was 9001)"
    assert "relation second" in inventory(database_url)


def test_an_index_is_built_concurrently_again_after_a_failed_attempt(tmp_path: Path, database_url: str) -> None:
    execute(database_url, "CREATE TABLE sample AS SELECT 1 AS number UNION ALL SELECT 1")
    write(
        tmp_path,
        "9001",
        "with phases.concurrently():",
        "    op.drop_index('ix_sample', if_exists=True, postgresql_concurrently=True)",
        "    op.create_index('ix_sample', 'sample', ['number'], unique=True, postgresql_concurrently=True)",
    )
    with pytest.raises(migrations.CannotMigrate) as failure:
        migrations.upgrade(database_url, "head", tmp_path)
    assert "could not create unique index" in explain(failure.value)
    is_valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_sample'::regclass"
    assert rows(database_url, is_valid) == [(False,)]
    execute(database_url, "DELETE FROM sample WHERE ctid = '(0,1)'")
    migrations.upgrade(database_url, "head", tmp_path)
    assert rows(database_url, is_valid) == [(True,)]


def test_every_migration_begins_with_the_timeouts_whatever_the_one_before_did(
    tmp_path: Path, database_url: str
) -> None:
    def note(table: str) -> str:
        settings = "current_setting('lock_timeout') AS locks, current_setting('statement_timeout') AS statements"
        return f'op.execute("CREATE TABLE {table} AS SELECT {settings}")'

    write(
        tmp_path,
        "9001",
        note("first"),
        "with phases.concurrently():",
        f"    {note('outside')}",
        note("inside_again"),
        "op.execute('SET lock_timeout = 0')",
        "op.execute('SET statement_timeout = 0')",
    )
    write(tmp_path, "9002", note("second"), after="9001")
    migrations.upgrade(database_url, "head", tmp_path)
    limits = (f"{session.LOCK_TIMEOUT_S}s", f"{session.STATEMENT_TIMEOUT_S}s")
    for table, wanted in (("first", limits), ("outside", ("0", "0")), ("inside_again", limits), ("second", limits)):
        assert rows(database_url, f"SELECT * FROM {table}") == [wanted], table


def test_a_long_statement_times_out_unless_its_migration_lifts_the_limit(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "STATEMENT_TIMEOUT_S", 1)
    write(tmp_path, "9001", "op.execute('SELECT pg_sleep(1.2)')")
    with pytest.raises(migrations.MigrationTimedOut, match=f"longer than 1 s; the schema stays at {REVISION}"):
        migrations.upgrade(database_url, "head", tmp_path)
    write(tmp_path, "9001", "op.execute('SET LOCAL statement_timeout = 0')", "op.execute('SELECT pg_sleep(1.2)')")
    assert migrations.upgrade(database_url, "head", tmp_path).startswith("9001")


def test_a_lock_of_another_session_stops_a_migration_within_seconds_and_a_retry_works(database_url: str) -> None:
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM problems")  # An open transaction, which keeps its lock.
        began = time.monotonic()
        with pytest.raises(migrations.MigrationTimedOut, match=f"waited 4 s .* stays at {REVISION}; run") as failure:
            migrations.upgrade(database_url, "9001", SAMPLES)
        assert time.monotonic() - began < 15
        assert len(explain(failure.value).splitlines()) == 1
        done = run(database_url, "downgrade", "base")
        assert done.returncode == 1
        stays_at = re.search(r"holds; the schema stays at (\d+)", done.stderr)
        assert stays_at is not None, done.stderr
        assert len(done.stderr.splitlines()) == 1
    # Migrations that do not need the lock may have been taken back before the one that does.
    assert migrations.upgrade(database_url, "9001", SAMPLES) == f"9001 (it was {stays_at[1]})"


def test_upgrades_at_the_same_time_are_safe(empty_url: str) -> None:
    """In processes: Alembic's state is global to a process."""
    environment = {**os.environ, "TRIM_DATABASE_URL": empty_url}
    command = [sys.executable, "-m", "migrations", "upgrade"]
    started = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    outcomes = [(each.communicate(timeout=PATIENCE_S)[1], each.returncode) for each in started]
    assert [code for _, code in outcomes] == [0, 0, 0], outcomes
    assert schema(empty_url).revision == REVISION
    migrations.check(empty_url)


def test_a_process_that_waits_for_its_turn_does_not_block_an_index_that_is_built_concurrently(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_TURN_POLL_S", 0.001)
    execute(database_url, "CREATE TABLE sample (number integer)")
    turns: list[float] = []

    def wait() -> None:
        with session.migrating(database_url):
            turns.append(time.monotonic())

    with psycopg.connect(database_url, autocommit=True) as first:
        first.execute(f"SELECT pg_advisory_lock({session._TURN_LOCK})".encode())
        waiting = threading.Thread(target=wait)
        waiting.start()
        query = "query LIKE '%pg_try_advisory_lock%' AND datname = current_database() AND pid <> pg_backend_pid()"
        deadline = time.monotonic() + PATIENCE_S
        while first.execute(f"SELECT FROM pg_stat_activity WHERE {query}".encode()).fetchone() is None:
            assert time.monotonic() < deadline
        first.execute("SET statement_timeout = '10s'")
        first.execute("CREATE INDEX CONCURRENTLY ix_sample ON sample (number)")
        built = time.monotonic()
    waiting.join(PATIENCE_S)
    assert turns
    assert turns[0] > built


def test_a_process_that_waits_too_long_for_its_turn_gives_up_and_can_try_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "TURN_TIMEOUT_S", 0.5)
    with psycopg.connect(database_url, autocommit=True) as first:
        first.execute(f"SELECT pg_advisory_lock({session._TURN_LOCK})".encode())
        with pytest.raises(session.MigrationInProgress):
            migrations.upgrade(database_url, "9001", SAMPLES)
    assert migrations.upgrade(database_url, "9001", SAMPLES).startswith("9001")


# Which code may run on which schema


@pytest.mark.parametrize(
    ("found", "fit"),
    [
        (Schema(None, None), Fit.MISSING),
        (Schema("0000", "0000"), Fit.TOO_OLD),
        (Schema(REVISION, "0001"), Fit.COMPATIBLE),
        (Schema("9999", REVISION), Fit.COMPATIBLE),
        (Schema("9999", "9000"), Fit.TOO_NEW),
    ],
)
def test_a_schema_fits_from_the_codes_revision_until_a_migration_retires_the_code(found: Schema, fit: Fit) -> None:
    assert found.fit == fit
    assert (found.error is None) == (fit is Fit.COMPATIBLE)


def test_the_error_on_a_schema_that_does_not_fit_states_what_to_do(database_url: str, empty_url: str) -> None:
    def check(url: str) -> None:
        with closing(Database(url)) as database, database.begin() as connection:
            if error := read_schema(connection).error:
                raise error

    check(database_url)
    with pytest.raises(SchemaOutdated, match=f"is missing, {REVISION} is needed; run `python -m migrations upgrade`"):
        check(empty_url)
    execute(database_url, "UPDATE alembic_version SET version_num = '0000'")
    with pytest.raises(SchemaOutdated, match=f"is 0000, {REVISION} is needed; run `python -m migrations upgrade`"):
        check(database_url)
    execute(database_url, "UPDATE alembic_version SET version_num = '9999'")
    check(database_url)
    execute(database_url, "UPDATE schema_compatibility SET oldest_code = '9000'")
    with pytest.raises(CodeOutdated, match=rf"schema {REVISION}\) is older than the schema allows \(9000\); upgrade"):
        check(database_url)


def test_the_compatibility_table_has_one_row(database_url: str) -> None:
    with pytest.raises(psycopg.errors.IntegrityError):
        execute(database_url, "INSERT INTO schema_compatibility (oldest_code) VALUES ('0002')")
    with pytest.raises(psycopg.errors.IntegrityError):
        execute(database_url, "INSERT INTO schema_compatibility VALUES (false, '0002')")


# Drift


def test_the_migrated_database_is_the_one_that_the_code_describes_and_the_check_leaves_no_trace(
    database_url: str,
) -> None:
    # Other schemas, what belongs to an extension, and the tuning of autovacuum do not count.
    execute(database_url, "ALTER TABLE steps SET (autovacuum_vacuum_scale_factor = 0.01)")
    execute(database_url, "CREATE EXTENSION IF NOT EXISTS pg_trgm")
    execute(database_url, "CREATE SCHEMA pgmq")
    execute(database_url, "CREATE FUNCTION pgmq.send() RETURNS integer LANGUAGE sql AS 'SELECT 1'")
    everything = "SELECT oid::regclass::text FROM pg_class UNION ALL SELECT nspname::text FROM pg_namespace ORDER BY 1"
    before = rows(database_url, everything)
    migrations.check(database_url)
    assert rows(database_url, everything) == before


REFUSE_NOTHING = (
    "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
)
OTHER_QUEUE = "CREATE INDEX ix_problems_queued ON problems (tenant_id, id) WHERE status = 'running'"
STRAY_TRIGGER = "CREATE TRIGGER stray AFTER INSERT ON steps FOR EACH ROW EXECUTE FUNCTION refuse_change()"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("ALTER TABLE problems ADD COLUMN stray integer", "'stray'"),
        ("DROP TRIGGER decisions_append_only ON decisions", "trigger decisions_append_only on decisions is missing"),
        (
            "ALTER TABLE decisions DISABLE TRIGGER decisions_append_only",
            "trigger decisions_append_only on decisions differs",
        ),
        (REFUSE_NOTHING, "function refuse_change() differs"),
        ("DROP VIEW audit; CREATE VIEW audit AS SELECT 1 AS problem_id", "view audit differs"),
        ("DROP VIEW audit", "view audit is missing"),
        (STRAY_TRIGGER, "trigger stray on steps is unknown to the code"),
        ("CREATE VIEW stray AS SELECT 1 AS number", "view stray is unknown to the code"),
        ("CREATE FUNCTION stray(x int) RETURNS int LANGUAGE sql AS 'SELECT 1'", "function stray(integer) is unknown"),
        (
            "ALTER TABLE problems DROP CONSTRAINT ck_problems_status",
            "constraint ck_problems_status on problems is miss",
        ),
        ("ALTER TABLE steps DROP CONSTRAINT pk_steps", "constraint pk_steps on steps is missing"),
        (
            "ALTER TABLE steps DROP CONSTRAINT pk_steps, ADD CONSTRAINT pk_steps PRIMARY KEY (step, problem_id)",
            "constraint pk_steps on steps differs",
        ),
        ("ALTER TABLE inbox DROP CONSTRAINT fk_inbox_problem_id", "constraint fk_inbox_problem_id on inbox is missing"),
        (
            "ALTER TABLE idempotency_keys ALTER CONSTRAINT fk_idempotency_keys_batch_id NOT DEFERRABLE",
            "constraint fk_idempotency_keys_batch_id on idempotency_keys differs",
        ),
        (
            "ALTER TABLE problems DROP CONSTRAINT uq_problems_batch_id_batch_index",
            "constraint uq_problems_batch_id_batch_index on problems is missing",
        ),
        ("DROP INDEX ix_problems_tenant_id_id", "index ix_problems_tenant_id_id on problems is missing"),
        ("CREATE INDEX stray ON steps (worker)", "index stray on steps is unknown to the code"),
        (f"DROP INDEX ix_problems_queued; {OTHER_QUEUE}", "index ix_problems_queued on problems differs"),
        ("ALTER TABLE problems SET (fillfactor = 100)", "storage options of problems differs"),
        ("ALTER TABLE problems RESET (fillfactor)", "storage options of problems is missing"),
        ("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'pk_steps'::regclass", "invalid index pk_steps"),
        ("UPDATE alembic_version SET version_num = '9999'", f"its revision is 9999, not {REVISION}"),
    ],
)
def test_a_drift_is_found_by_name(database_url: str, change: str, named: str) -> None:
    execute(database_url, change)
    with pytest.raises(migrations.Drifted) as failure:
        migrations.check(database_url)
    assert named in str(failure.value)
    assert str(failure.value).count("; ") == 0, "one difference only"
