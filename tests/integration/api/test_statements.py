"""What the API asks of its database: how many statements, for which columns, along which indexes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import InvalidRequestError
from starlette.testclient import TestClient

from shared.store import queries
from shared.store.database import Database
from shared.store.tables import Problem
from tests.integration.api.calls import submit_batch

pytestmark = pytest.mark.servers

HIDDEN = ("idempotency_key", "request_digest", "request", "request_count", "attempts", "pending", "due_at")


@contextmanager
def statements(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """Collect the queries that are sent meanwhile, with their parameters, in the order in which they are."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_rest: object) -> None:
        if statement.startswith("SELECT"):
            sent.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


@pytest.mark.parametrize(
    ("path", "count"),
    [
        ("/v1/problems?limit=200", 1),
        ("/v1/problems?batch_id={batch}", 1),
        ("/v1/problems/{problem}", 1),
        ("/v1/batches/{batch}/problems", 2),
    ],
)
def test_problems_are_read_in_one_statement_without_what_orchestrators_work_with(
    api: TestClient, database: Database, path: str, count: int
) -> None:
    batch = submit_batch(api, 5)
    with statements(database) as sent:
        response = api.get(path.format(batch=batch["id"], problem=batch["problem_ids"][0]))
    assert response.status_code == 200
    assert len(sent) == count, "one for all problems; the other one asks for the batch"
    statement, _ = sent[-1]
    assert "problems.question" in statement
    assert not [name for name in HIDDEN if re.search(rf"\bproblems\.{name}\b", statement)]


def test_a_column_that_is_not_shown_raises_instead_of_being_loaded(api: TestClient, database: Database) -> None:
    (problem_id,) = submit_batch(api, 1)["problem_ids"]
    with database.session() as session:
        reading = queries.read_problem(session, UUID(problem_id))
        assert reading is not None
        for name in HIDDEN:
            with pytest.raises(InvalidRequestError, match=name):
                getattr(reading.problem, name)
    assert set(HIDDEN) < {column.name for column in Problem.__table__.columns}


def test_a_batch_is_summed_up_in_one_statement(api: TestClient, database: Database) -> None:
    batch = submit_batch(api, 5)
    with statements(database) as sent:
        assert api.get(f"/v1/batches/{batch['id']}").json()["statuses"] == {"queued": 5}
    assert len(sent) == 2, "one for the batch, one for all its sums"


@pytest.mark.parametrize(
    ("path", "index", "sorts"),
    [
        ("/v1/problems?limit=1", "ix_problems_created_at_id", ["Incremental Sort"]),
        ("/v1/problems?limit=1&status=queued", "created_at_id", ["Incremental Sort"]),
        ("/v1/problems?limit=1&batch_id={batch}", "uq_problems_batch_id_batch_index", []),
        ("/v1/batches/{batch}/problems?limit=1", "uq_problems_batch_id_batch_index", []),
    ],
)
def test_every_page_of_a_listing_is_found_along_an_index(
    api: TestClient, database: Database, path: str, index: str, sorts: list[str]
) -> None:
    """An incremental sort orders only what shares a moment: the index brings the moments in order.

    Of two indexes that begin alike, the planner takes either while there are few rows.
    """
    path = path.format(batch=submit_batch(api, 5)["id"])
    cursor = api.get(path).json()["next_cursor"]
    for query in ("", f"&cursor={cursor}"):
        with statements(database) as sent:
            assert api.get(f"{path}{query}").status_code == 200
        with database.session() as session:
            # A table of a few rows is read whole, or sorted whole, unless that is forbidden.
            for forbidden in ("seqscan", "bitmapscan", "sort"):
                session.execute(text(f"SET LOCAL enable_{forbidden} = off"))
            statement, parameters = sent[-1]
            plan = "\n".join(session.connection().exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())
        assert index in plan, plan
        assert re.findall(r"(?:\w+ )?Sort(?=  \()", plan) == sorts, plan
        assert "Seq Scan" not in plan, plan
