"""The API's database queries: how many statements, for which columns, for which tenant.

Which indexes they use is tested with the store's own queries, in tests/integration/test_plans.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event
from starlette.testclient import TestClient

from shared.store import queries
from shared.store.database import Database
from tests.integration.api.calls import submit_batch

pytestmark = pytest.mark.servers

PROBLEM, BATCH = "/v1/problems/{problem}", "/v1/batches/{batch}"
COUNTS = [
    ("/v1/problems?limit=200", 1),
    ("/v1/problems?status=queued&policy=threshold", 1),
    ("/v1/problems?batch_id={batch}", 1),
    (PROBLEM, 1),
    (f"{PROBLEM}/steps", 2),
    (f"{PROBLEM}/decisions", 2),
    (f"{PROBLEM}/audit", 2),
    (BATCH, 2),
    (f"{BATCH}/problems", 2),
]
"""Paths, and how many statements each takes: one for the rows, and one to find the problem or batch that it names."""


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """Collect the queries that are sent in this block."""
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("SELECT"):
            sent.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


@pytest.mark.parametrize(("path", "count"), COUNTS)
def test_an_endpoint_reads_all_its_rows_in_one_statement(
    api: TestClient, database: Database, path: str, count: int
) -> None:
    batch = submit_batch(api, 5)
    with statements(database) as sent:
        response = api.get(path.format(batch=batch["id"], problem=batch["problem_ids"][0]))
    assert response.status_code == 200
    assert len(sent) == count, sent


@pytest.mark.parametrize(("path", "_count"), COUNTS)
def test_an_endpoint_reads_no_working_column_and_checks_the_tenant(
    api: TestClient, database: Database, path: str, _count: int
) -> None:
    batch = submit_batch(api, 5)
    with statements(database) as sent:
        api.get(path.format(batch=batch["id"], problem=batch["problem_ids"][0]))
    for column in queries.HIDDEN:
        assert not [each for each in sent if re.search(rf"\bproblems\.{column.key}\b", each)]
    conditions = sent[0].split("WHERE", 1)[1]
    assert re.search(r"\.tenant_id( =|, | <)", conditions), conditions
