"""The services as users of the database who may do what docs/operations/database-users.md lists, and no more."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import make_url

from chaos.deployment import deployed
from migrations.drift import _TABLES
from migrations.grants import API, AUDITOR, GRANTS, ORCHESTRATOR, grant
from shared.store.database import Database
from tests.integration.test_recovery import SCRIPT, SOLUTION

pytestmark = pytest.mark.servers


@pytest.fixture
def urls(database_url: str) -> Iterator[dict[str, str]]:
    """URLs of a database by user; the users are of this test alone."""
    suffix = secrets.token_hex(4)
    names = {service: f"scratch-{service}-{suffix}" for service in GRANTS}
    owner = make_url(database_url)
    with closing(Database(database_url)) as database:
        with psycopg.connect(database_url, autocommit=True) as connection:
            for name in names.values():
                connection.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'of-{name}'".encode())
        try:
            with database.begin() as connection:
                assert grant(connection, names) == [*names.values()]
            yield {
                service: owner.set(username=name, password=f"of-{name}").render_as_string(hide_password=False)
                for service, name in names.items()
            }
        finally:
            with psycopg.connect(database_url, autocommit=True) as connection:
                for name in names.values():
                    connection.execute(f'DROP OWNED BY "{name}"'.encode())
                    connection.execute(f'DROP ROLE "{name}"'.encode())


def refused(url: str, statement: str) -> bool:
    """Tell whether the database refuses a statement to a user."""
    with psycopg.connect(url) as connection:
        try:
            connection.execute(statement.encode())
        except InsufficientPrivilege:
            return True
    return False


def test_every_table_is_somebodys() -> None:
    granted = {table for tables in GRANTS.values() for table in tables}
    assert set(_TABLES.tables) <= granted


def test_the_services_need_no_more_and_nobody_changes_a_decision(
    tmp_path: Path, database_url: str, rabbitmq_server: str, urls: dict[str, str]
) -> None:
    own = {role: {"database_url": urls[user]} for role, user in (("api", API), ("orchestrator", ORCHESTRATOR))}
    with deployed(
        tmp_path, database_url=database_url, broker_url=rabbitmq_server, own=own, script=SCRIPT
    ) as deployment:
        ids = deployment.submit(4, lookahead=2)
        rows = deployment.finish(ids)
        assert {row["status"] for row in rows} == {"succeeded"}
        assert [deployment.trajectory(each) for each in ids] == [SOLUTION] * len(ids)
        for _ in range(2):
            batch = deployment.api.submit([{"question": "Again?"}], {}, key="again")
        [problem] = deployment.api.batch_problems(batch)
        deployment.api.cancel(problem["id"])
        deployment.finish([problem["id"]])
        for path in ("steps", "decisions", "audit"):
            assert deployment.api.get(f"/v1/problems/{ids[0]}/{path}")["items"]
        assert deployment.api.get("/v1/policies/pomdp/versions")["items"] == []

    for user in (API, ORCHESTRATOR, AUDITOR):
        assert refused(urls[user], "UPDATE decisions SET reason = 'another'")
        assert refused(urls[user], "DELETE FROM decisions")
        assert refused(urls[user], "TRUNCATE decisions")
        assert refused(urls[user], "DROP TABLE decisions")
        assert refused(urls[user], "DELETE FROM problems")
        assert not refused(urls[user], "SELECT * FROM audit")
    for statement in (
        "UPDATE problems SET answer = '8'",
        "UPDATE steps SET text = 'another'",
        "INSERT INTO steps (problem_id, step) VALUES (gen_random_uuid(), 0)",
        "INSERT INTO decisions (number) VALUES (0)",
    ):
        assert refused(urls[API], statement)
    assert refused(urls[ORCHESTRATOR], "UPDATE steps SET text = 'another'")
    assert refused(urls[ORCHESTRATOR], "INSERT INTO problems (id) VALUES (gen_random_uuid())")
    assert refused(urls[AUDITOR], "INSERT INTO batches (id, size) VALUES (gen_random_uuid(), 1)")


def test_what_an_earlier_version_granted_is_taken_back(database_url: str, urls: dict[str, str]) -> None:
    name = make_url(urls[API]).username
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f'GRANT DELETE ON problems, inbox TO "{name}"'.encode())
    assert not refused(urls[API], "DELETE FROM problems WHERE false")
    with closing(Database(database_url)) as database, database.begin() as connection:
        grant(connection, {API: str(name)})
    assert refused(urls[API], "DELETE FROM problems WHERE false")
    assert refused(urls[API], "DELETE FROM inbox WHERE false")
