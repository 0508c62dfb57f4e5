"""The schema's steps, up and down, against the tables of the code."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import make_url

import migrations
from shared.store.database import Database
from shared.store.schema import REVISION, SchemaOutdated, check_schema, current_revision

pytestmark = pytest.mark.servers

PATIENCE_S = 60.0

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


def inventory(url: str) -> set[str]:
    """Everything in the public schema but Alembic's own table."""
    with psycopg.connect(url) as connection:
        names = {str(row[0]) for row in connection.execute(LEFT.encode())}
    return {each for each in names if "alembic_version" not in each}


def revision(url: str) -> str | None:
    with closing(Database(url)) as database, database.begin() as connection:
        return current_revision(connection)


def test_the_codes_revision_is_the_newest_migration() -> None:
    heads = ScriptDirectory.from_config(migrations.config("postgresql://nowhere/nothing")).get_heads()
    assert heads == [REVISION]


def test_the_migrated_database_is_the_one_that_the_code_describes(database_url: str) -> None:
    migrations.check(database_url)
    assert revision(database_url) == REVISION


def test_a_drift_would_be_found(database_url: str) -> None:
    """So that the test before means something."""
    execute(database_url, "ALTER TABLE problems ADD COLUMN stray integer")
    with pytest.raises(migrations.CannotMigrate, match="stray"):
        migrations.check(database_url)


def test_the_way_down_leaves_nothing_and_the_way_up_brings_all_back(empty_url: str) -> None:
    assert inventory(empty_url) == set()
    migrations.upgrade(empty_url)
    everything = inventory(empty_url)
    assert {"relation problems", "relation decisions", "relation audit", "function refuse_change"} <= everything
    migrations.downgrade(empty_url, "base")
    assert inventory(empty_url) == set()
    assert revision(empty_url) is None
    migrations.upgrade(empty_url)
    assert inventory(empty_url) == everything
    migrations.check(empty_url)


def test_an_upgrade_of_what_is_up_changes_nothing(database_url: str) -> None:
    before = inventory(database_url)
    migrations.upgrade(database_url)
    assert inventory(database_url) == before
    assert revision(database_url) == REVISION


def test_what_cannot_be_migrated_is_told_in_one_sentence(database_url: str) -> None:
    execute(database_url, "UPDATE alembic_version SET version_num = '9999'")
    for url, said in (
        (database_url, "9999"),
        ("postgresql://postgres@127.0.0.1:1/x", "does not answer"),
        (make_url(database_url).set(database="no_such").render_as_string(hide_password=False), "no_such"),
        ("", "TRIM_DATABASE_URL is not set"),
    ):
        environment = {**os.environ, "TRIM_DATABASE_URL": url}
        done = subprocess.run(
            [sys.executable, "-m", "migrations", "upgrade"],
            env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode in (1, 2)
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_upgrades_at_the_same_time_are_safe(empty_url: str) -> None:
    """Processes, as replicas are: Alembic keeps what it works on in the process."""
    environment = {**os.environ, "TRIM_DATABASE_URL": empty_url}
    command = [sys.executable, "-m", "migrations", "upgrade"]
    started = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    outcomes = [(each.communicate(timeout=PATIENCE_S)[1], each.returncode) for each in started]
    assert [code for _, code in outcomes] == [0, 0, 0], outcomes
    assert revision(empty_url) == REVISION
    migrations.check(empty_url)


def test_a_schema_that_is_not_the_codes_is_refused(database_url: str, empty_url: str) -> None:
    with closing(Database(database_url)) as database, database.begin() as connection:
        check_schema(connection)
    with (
        closing(Database(empty_url)) as database,
        pytest.raises(SchemaOutdated, match="missing"),
        database.begin() as connection,
    ):
        check_schema(connection)
    execute(database_url, "UPDATE alembic_version SET version_num = '9999'")
    with (
        closing(Database(database_url)) as database,
        pytest.raises(SchemaOutdated, match="9999"),
        database.begin() as connection,
    ):
        check_schema(connection)
