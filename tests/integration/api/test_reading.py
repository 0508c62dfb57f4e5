"""One problem: how it stands and ended, waiting for its end, its record step by step, cancelling it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import fields
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from fastapi import FastAPI
from sqlalchemy import text
from starlette.testclient import TestClient

from services.api.app import create_app
from shared.domain.ledger import Ledger
from shared.domain.status import Status
from shared.store.database import Database
from shared.store.tables import DecisionRow, StepRow
from tests.integration.api.calls import PATIENCE_S, SETTINGS, add_step, change, submit, wrong_fields

pytestmark = pytest.mark.servers


def test_a_problem_shows_how_it_ended_and_what_it_cost(api: TestClient, database: Database) -> None:
    made = submit(api, reference="42")
    spent = {each.name: index + 2**31 for index, each in enumerate(fields(Ledger)) if not each.name.endswith("calls")}
    calls = {"small_calls": 7, "large_calls": 2, "prm_calls": 5}
    now = datetime.now(UTC)
    ended = {"status": "succeeded", "answer": "42", "verdict": "correct", "stop_reason": "final_answer", "epoch": 2}
    change(database, made["id"], **ended, **spent, **calls, started_at=now, finished_at=now)
    add_step(database, made["id"], 0)
    add_step(database, made["id"], 1, author="large")
    found = api.get(f"/v1/problems/{made['id']}").json()
    assert {name: found[name] for name in ended} == ended
    assert found["ledger"] == spent | calls
    assert (found["steps"], found["escalated_steps"], found["failure"]) == (2, 1, None)
    assert datetime.fromisoformat(found["finished_at"]) == now
    for name, link in found["links"].items():
        answer = api.post(link) if name == "cancel" else api.get(link)
        assert answer.status_code == 200, name


def test_a_failed_problem_says_why(api: TestClient, database: Database) -> None:
    made = submit(api)
    change(database, made["id"], status="failed", failure_code="too_many_attempts", failure_detail="It gave up.")
    failure = api.get(f"/v1/problems/{made['id']}").json()["failure"]
    assert failure == {"code": "too_many_attempts", "detail": "It gave up."}


@pytest.mark.parametrize("rest", ["", "/steps", "/decisions", "/audit", "/cancel"])
def test_an_unknown_problem_is_not_found_and_a_malformed_id_is_refused(api: TestClient, rest: str) -> None:
    send = api.post if rest == "/cancel" else api.get
    body = send(f"/v1/problems/{uuid4()}{rest}").json()
    assert body["status"] == 404
    assert "problem_id" in wrong_fields(send(f"/v1/problems/seven{rest}"))


def test_waiting_ends_as_soon_as_the_problem_is_final(app: FastAPI, api: TestClient, database: Database) -> None:
    made = submit(api)
    looked = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: (looked.set(), TestClient(app).get(f"/v1/problems/{made['id']}?wait_s=60"))[1])
        looked.wait(PATIENCE_S)
        assert not waiting.done()
        change(database, made["id"], status="cancelled", finished_at=datetime.now(UTC))
        assert waiting.result(PATIENCE_S).json()["status"] == "cancelled"


def test_waiting_is_bounded_and_holds_no_connection(app: FastAPI, database: Database, api: TestClient) -> None:
    made = submit(api)
    small = Database(database.engine.url.render_as_string(hide_password=False), pool_size=1)
    waiters = 8
    with closing(small), ThreadPoolExecutor(waiters) as pool, TestClient(create_app(SETTINGS, small)) as one:
        before = time.monotonic()
        waiting = [pool.submit(one.get, f"/v1/problems/{made['id']}?wait_s=1") for _ in range(waiters)]
        # Eight wait on a pool of two connections, and there is still one for everybody else.
        assert one.get("/health/ready").status_code == 200
        statuses = [each.result(PATIENCE_S).json()["status"] for each in waiting]
    assert statuses == ["queued"] * waiters
    assert 1 <= time.monotonic() - before < 10


@pytest.mark.parametrize("wait_s", ["-1", "61", "nan", "inf", "soon"])
def test_a_wait_that_is_no_bounded_number_is_refused(api: TestClient, wait_s: str) -> None:
    made = submit(api)
    assert "wait_s" in wrong_fields(api.get(f"/v1/problems/{made['id']}?wait_s={wait_s}"))


def test_steps_and_decisions_show_every_stored_column(api: TestClient, database: Database) -> None:
    made = submit(api)
    add_step(database, made["id"], 0)
    add_step(database, made["id"], 1, author="large")
    for name, table in (("steps", StepRow), ("decisions", DecisionRow)):
        rows = api.get(f"/v1/problems/{made['id']}/{name}").json()["items"]
        columns = {column.name for column in table.__table__.columns}
        assert [set(row) | {"problem_id"} for row in rows] == [columns] * 2
        assert all(value is not None for row in rows for value in row.values())
    assert rows[1]["previous_scores"] == [0.5]
    assert (rows[1]["seed"], rows[1]["draft_worked_ms"], rows[1]["compared_with"]) == (2**53, 12.5, 0.5)


def test_the_audit_shows_every_column_of_the_view(api: TestClient, database: Database) -> None:
    made = submit(api)
    add_step(database, made["id"], 0, author="large")
    with database.session() as session:
        columns = set(session.execute(text("SELECT * FROM audit LIMIT 0")).keys())
    (row,) = api.get(f"/v1/problems/{made['id']}/audit").json()["items"]
    assert set(row) == columns
    assert (row["problem_id"], row["draft_text"], row["step_text"]) == (made["id"], "Draft 0.", "Step 0.")
    assert (row["action"], row["author"], row["policy_parameters"]) == ("escalate", "large", {"threshold": 0.5})


@pytest.mark.parametrize("name", ["steps", "decisions", "audit"])
def test_a_record_is_paged_by_step(api: TestClient, database: Database, name: str) -> None:
    made = submit(api)
    for step in range(5):
        add_step(database, made["id"], step)
    path = f"/v1/problems/{made['id']}/{name}"
    found: list[int] = []
    while page := api.get(path, params={"limit": 2, "after": found[-1] if found else -1}).json()["items"]:
        found += [row["step"] for row in page]
    assert found == [0, 1, 2, 3, 4]
    for query in ("limit=0", "limit=201", "after=-2", f"after={10**30}", "after=x"):
        assert query.partition("=")[0] in wrong_fields(api.get(f"{path}?{query}"))


# --- cancelling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["queued", "running"])
def test_cancelling_an_open_problem_is_noted_once(api: TestClient, database: Database, status: str) -> None:
    made = submit(api)
    change(database, made["id"], status=status)
    first = api.post(f"/v1/problems/{made['id']}/cancel")
    again = api.post(f"/v1/problems/{made['id']}/cancel")
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["status"] == status, "an orchestrator ends it, the API does not"
    assert first.json()["cancel_requested_at"] == again.json()["cancel_requested_at"] is not None


@pytest.mark.parametrize("status", [status for status in Status if status.is_final])
def test_cancelling_a_final_problem_changes_nothing(api: TestClient, database: Database, status: Status) -> None:
    made = submit(api)
    change(database, made["id"], status=status)
    before = api.get(f"/v1/problems/{made['id']}").json()
    response = api.post(f"/v1/problems/{made['id']}/cancel")
    assert response.status_code == 200
    assert response.json() == before
    assert before["cancel_requested_at"] is None
