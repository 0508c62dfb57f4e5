"""The queries of the runbooks, run exactly as printed there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shared.store.database import Database
from stack.scratch import scratch_database
from tests.integration.solving import execute, fail, hear, rows, solve, start, submit

pytestmark = pytest.mark.servers

RUNBOOKS = Path(__file__).resolve().parents[2] / "docs" / "operations" / "runbooks"
QUERIES = [
    (f"{page.stem}-{index}", query)
    for page in sorted(RUNBOOKS.glob("*.md"))
    for index, query in enumerate(re.findall(r"```sql\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.fixture(scope="module")
def database(postgres_server: str) -> Iterator[Database]:
    """A database with a solved, a failed, a running and a queued problem, and a worker's heartbeat."""
    with scratch_database(postgres_server) as url, closing(Database(url, pool_size=1)) as made:
        solve(made, submit(made))
        failed = submit(made)
        start(made)
        hear(made, fail(failed))
        execute(made, "UPDATE problems SET failure_code = 'attempts_exhausted' WHERE status = 'failed'")
        submit(made)
        start(made)
        absences = "jsonb_build_object('prm', jsonb_build_object('since', now()))"
        execute(made, f"UPDATE problems SET attempts = 2, absences = {absences} WHERE status = 'running'")
        submit(made)
        execute(made, "INSERT INTO processes (name, role, model, seen_at) VALUES ('w', 'small', 'm', now())")
        yield made


@pytest.mark.parametrize("query", [query for _, query in QUERIES], ids=[name for name, _ in QUERIES])
def test_a_query_finds_what_its_page_is_about(database: Database, query: str) -> None:
    found = rows(database, query.replace(":", r"\:"))
    assert found or "FROM pg_stat_activity" in query, "the fixture has such a row; other sessions come and go"
