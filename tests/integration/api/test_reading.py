"""Reading one problem: its result, its record, waiting for its end; and its cancellation."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import fields
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from services.api.app import create_app
from shared.domain.decisions import Observation
from shared.domain.demonstration import DIGESTS, WRITTEN
from shared.domain.ledger import Ledger
from shared.domain.status import Status
from shared.store.database import Database
from shared.store.tables import DecisionRow, StepRow
from tests.integration.api.calls import (
    PATIENCE_S,
    SETTINGS,
    add_decision,
    add_step,
    change,
    submit,
    submit_batch,
    wrong_fields,
)

pytestmark = pytest.mark.servers


def test_a_problem_shows_how_it_ended_and_what_it_cost(api: TestClient, database: Database) -> None:
    made = submit(api, reference="42")
    spent = {each.name: index + 2**31 for index, each in enumerate(fields(Ledger)) if not each.name.endswith("calls")}
    calls = {"small_calls": 7, "large_calls": 2, "prm_calls": 5}
    now = datetime.now(UTC)
    ended = {"status": "succeeded", "answer": "42", "verdict": "correct", "stop_reason": "final_answer", "epoch": 2}
    counts = {"step_count": 2, "escalation_count": 1}
    change(database, made["id"], **ended, **spent, **calls, **counts, started_at=now, finished_at=now)
    found = api.get(f"/v1/problems/{made['id']}").json()
    assert {name: found[name] for name in ended} == ended
    assert found["ledger"] == spent | calls
    assert (found["steps"], found["escalations"], found["failure"]) == (2, 1, None)
    assert datetime.fromisoformat(found["finished_at"]) == now
    for name, link in found["links"].items():
        response = api.post(link) if name == "cancel" else api.get(link)
        assert response.status_code == 200, name


def test_a_problem_with_a_step_of_a_bundled_model_has_a_note_wherever_it_is_shown(
    api: TestClient, database: Database
) -> None:
    batch = submit_batch(api, 2)
    own, bundled = batch["problem_ids"]
    add_step(database, own, 0)
    add_step(database, bundled, 0)
    change(database, bundled, step_count=2)
    add_step(database, bundled, 1, model=f"embedded/small@{min(DIGESTS)}")
    for path in ("/v1/problems", batch["links"]["problems"]):
        notes = {each["id"]: each["note"] for each in api.get(path).json()["items"]}
        assert (notes[own], notes[bundled]) == (None, WRITTEN)
    assert api.get(f"/v1/problems/{bundled}").json()["note"] == WRITTEN


def test_a_failed_problem_shows_why(api: TestClient, database: Database) -> None:
    made = submit(api)
    change(
        database,
        made["id"],
        status="failed",
        failure_code="attempts_exhausted",
        failure_detail="The step failed 5 times.",
    )
    failure = api.get(f"/v1/problems/{made['id']}").json()["failure"]
    assert failure == {"code": "attempts_exhausted", "detail": "The step failed 5 times."}


@pytest.mark.parametrize("rest", ["", "/steps", "/decisions", "/audit", "/cancel"])
def test_an_unknown_problem_is_not_found_and_a_malformed_id_is_refused(api: TestClient, rest: str) -> None:
    send = api.post if rest == "/cancel" else api.get
    body = send(f"/v1/problems/{uuid4()}{rest}").json()
    assert body["status"] == 404
    assert "problem_id" in wrong_fields(send(f"/v1/problems/seven{rest}"))


def test_waiting_is_bounded_and_holds_no_connection(database: Database, api: TestClient) -> None:
    made = submit(api)
    small = Database(database.engine.url.render_as_string(hide_password=False), pool_size=1)
    waiters = 8
    with closing(small), ThreadPoolExecutor(waiters) as pool, TestClient(create_app(SETTINGS, small)) as one:
        before = time.monotonic()
        waiting = [pool.submit(one.get, f"/v1/problems/{made['id']}?wait_s=1") for _ in range(waiters)]
        # Eight requests wait on a pool of two connections, and another request still gets one.
        assert one.get("/health/ready").status_code == 200
        statuses = [each.result(PATIENCE_S).json()["status"] for each in waiting]
    assert statuses == ["queued"] * waiters
    assert 1 <= time.monotonic() - before < 10


@pytest.mark.parametrize("wait_s", ["-1", "61", "nan", "inf", "soon"])
def test_a_wait_out_of_bounds_is_refused(api: TestClient, wait_s: str) -> None:
    made = submit(api)
    assert "wait_s" in wrong_fields(api.get(f"/v1/problems/{made['id']}?wait_s={wait_s}"))


def test_a_step_shows_every_stored_column(api: TestClient, database: Database) -> None:
    made = submit(api)
    add_step(database, made["id"], 0)
    add_step(database, made["id"], 1, author="large")
    rows = api.get(f"/v1/problems/{made['id']}/steps").json()["items"]
    columns = {column.name for column in StepRow.__table__.columns}
    assert [set(row) | {"problem_id"} for row in rows] == [columns] * 2
    assert [(row["step"], row["author"], row["text"], row["finish"]) for row in rows] == [
        (0, "small", "Step 0.", "separator"),
        (1, "large", "Step 1.", "separator"),
    ]
    assert (rows[1]["tokens"], rows[1]["score"], rows[1]["waited_ms"], rows[1]["worked_ms"]) == (4, 0.75, 1.5, 20.25)


def test_a_decision_shows_what_was_seen_chosen_and_by_which_policy(api: TestClient, database: Database) -> None:
    made = submit(api)
    now, draft_id = datetime.now(UTC), uuid4()
    add_decision(database, made["id"], number=4, step=3, epoch=2, decided_at=now, draft_id=draft_id)
    (shown,) = api.get(f"/v1/problems/{made['id']}/decisions").json()["items"]
    assert datetime.fromisoformat(shown.pop("decided_at")) == now
    assert shown == {
        "number": 4,
        "step": 3,
        "epoch": 2,
        "decided_by": "policy",
        "policy": {"name": "threshold", "revision": 2, "parameters_digest": "fedcba9876543210", "version": None},
        "observation": {
            "step": 3,
            "score": 0.25,
            "previous_scores": [0.5, None, 0.75],
            "previous_authors": ["small", "large", "small"],
            "previous_tokens": [4, 3, 4],
            "following_scores": [0.875],
            "draft_tokens": 5,
            "mean_logprob": None,
            "min_logprob": None,
            "thoughts": [],
            "is_final": False,
            "large_out": 3,
            "seed": 2**53,
            "question_digest": "0123456789abcdef",
        },
        "action": "escalate",
        "reason": "score_below_threshold",
        "value": 0.25,
        "compared_with": 0.5,
        "numbers": {"belief": 0.125},
        "propensity": 0.75,
        "draft": {
            "id": str(draft_id),
            "prefix_digest": "00112233445566ff",
            "text": "Draft 3.",
            "finish": "separator",
            "tokens": 5,
            "estimated_tokens": 2,
            "prompt_tokens": 11,
            "cached_tokens": 6,
            "model": "small-model",
            "worker": "small-0",
            "waited_ms": 0.5,
            "worked_ms": 12.5,
        },
        "scoring": {
            "tokens": 17, "estimated_tokens": 3, "model": "prm-model", "worker": "prm-0",
            "waited_ms": 0.25, "worked_ms": 2.5,
        },
        "shadows": [],
    }  # fmt: skip
    assert set(shown["observation"]) == {each.name for each in fields(Observation)}


def test_a_decision_of_an_earlier_version_shows_the_defaults_of_what_was_not_stored(
    api: TestClient, database: Database
) -> None:
    made = submit(api)
    add_decision(database, made["id"], number=0, step=0, observation={"step": 0, "score": 0.5})
    (shown,) = api.get(f"/v1/problems/{made['id']}/decisions").json()["items"]
    assert shown["observation"]["score"] == 0.5
    assert shown["observation"]["following_scores"] == []
    assert shown["observation"]["previous_authors"] == []
    assert shown["observation"]["previous_tokens"] == []


def test_a_decision_without_a_draft_or_a_score_shows_neither(api: TestClient, database: Database) -> None:
    made = submit(api)
    columns = [column.name for column in DecisionRow.__table__.columns if column.name.startswith(("draft_", "prm_"))]
    add_decision(database, made["id"], number=0, step=0, decided_by="rule", **dict.fromkeys(columns))
    (shown,) = api.get(f"/v1/problems/{made['id']}/decisions").json()["items"]
    assert (shown["draft"], shown["scoring"], shown["decided_by"]) == (None, None, "rule")


def test_the_audit_shows_each_decision_beside_the_step_now_at_its_index(api: TestClient, database: Database) -> None:
    made = submit(api)
    add_step(database, made["id"], 0, author="large")
    add_decision(database, made["id"], number=1, step=1)
    decisions = api.get(f"/v1/problems/{made['id']}/decisions").json()["items"]
    (step,) = api.get(f"/v1/problems/{made['id']}/steps").json()["items"]
    decided, undecided = api.get(f"/v1/problems/{made['id']}/audit").json()["items"]
    assert [decided["decision"], undecided["decision"]] == decisions
    assert decided["policy_parameters"] == {"threshold": 0.5}
    assert decided["accepted_step"] == step
    assert undecided["accepted_step"] is None


def test_an_erased_problem_shows_its_numbers_without_its_texts(api: TestClient, database: Database) -> None:
    made = submit(api, reference="42")
    add_step(database, made["id"], 0)
    change(database, made["id"], status="failed", failure_code="refused", failure_detail="Secret.")
    with database.session() as session:
        session.execute(text("SELECT erase_problem(:id)"), {"id": made["id"]})
    problem = api.get(f"/v1/problems/{made['id']}").json()
    assert (problem["question"], problem["reference"]) == ("", None)
    assert problem["failure"] == {"code": "refused", "detail": ""}
    assert problem["erased_at"] is not None
    (audited,) = api.get(f"/v1/problems/{made['id']}/audit").json()["items"]
    assert (audited["decision"]["draft"]["text"], audited["accepted_step"]["text"]) == (None, "")
    assert audited["decision"]["draft"]["tokens"] == 5


# --- cancellation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["queued", "running"])
def test_the_cancellation_of_an_open_problem_is_recorded_once(api: TestClient, database: Database, status: str) -> None:
    made = submit(api)
    change(database, made["id"], status=status)
    first = api.post(f"/v1/problems/{made['id']}/cancel")
    again = api.post(f"/v1/problems/{made['id']}/cancel")
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["status"] == status, "an orchestrator ends it, the API does not"
    assert first.json()["cancel_requested_at"] == again.json()["cancel_requested_at"] is not None


@pytest.mark.parametrize("status", [status for status in Status if status.is_final])
def test_the_cancellation_of_a_final_problem_changes_nothing(
    api: TestClient, database: Database, status: Status
) -> None:
    made = submit(api)
    change(database, made["id"], status=status)
    before = api.get(f"/v1/problems/{made['id']}").json()
    response = api.post(f"/v1/problems/{made['id']}/cancel")
    assert response.status_code == 200
    assert response.json() == before
    assert before["cancel_requested_at"] is None
