"""Batches: defaults, all or none, sums."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from shared.domain.ledger import Ledger
from shared.store.database import Database
from tests.integration.api.calls import (
    QUESTION,
    change,
    is_refusal,
    read_pages,
    submit,
    submit_batch,
    wrong_fields,
)

pytestmark = pytest.mark.servers


def test_a_batch_returns_its_problems_in_order_with_the_defaults(api: TestClient) -> None:
    problems = [QUESTION, {"question": "What else?", "lookahead": 3}, QUESTION]
    response = api.post("/v1/batches", json={"problems": problems, "defaults": {"lookahead": 7, "max_attempts": 2}})
    made = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"/v1/batches/{made['id']}"
    found = [api.get(f"/v1/problems/{each}").json() for each in made["problem_ids"]]
    assert [each["batch_index"] for each in found] == [0, 1, 2]
    assert {each["batch_id"] for each in found} == {made["id"]}
    assert [each["lookahead"] for each in found] == [7, 3, 7]
    assert [each["max_attempts"] for each in found] == [2, 2, 2]
    assert [each["question"] for each in found] == [each["question"] for each in problems]


def test_a_problem_overrides_a_default_with_null(api: TestClient) -> None:
    problems = [QUESTION | {"deadline_s": None}, QUESTION]
    made = api.post("/v1/batches", json={"problems": problems, "defaults": {"deadline_s": 3600}}).json()
    first, second = (api.get(f"/v1/problems/{each}").json()["deadline_at"] for each in made["problem_ids"])
    assert first is None
    assert second is not None


def test_every_wrong_field_of_a_batch_is_named(api: TestClient) -> None:
    problems = [QUESTION, {"question": ""}, QUESTION | {"lookahead": -1}]
    wrong = wrong_fields(api.post("/v1/batches", json={"problems": problems, "defaults": {"max_attempts": 0}}))
    assert wrong.split() == ["body.defaults.max_attempts", "body.problems.1.question", "body.problems.2.lookahead"]


def test_defaults_for_limits_and_sampling_are_completed_field_by_field(api: TestClient) -> None:
    defaults = {"limits": {"max_steps": 5}, "sampling": {"temperature": 0, "seed": 1}}
    problems = [QUESTION | {"limits": {"max_tokens": 100}, "sampling": {"seed": 2}}]
    made = api.post("/v1/batches", json={"problems": problems, "defaults": defaults}).json()
    found = api.get(f"/v1/problems/{made['problem_ids'][0]}").json()
    assert (found["limits"]["max_steps"], found["limits"]["max_tokens"]) == (5, 100)
    assert (found["sampling"]["temperature"], found["sampling"]["seed"]) == (0, 2)


@pytest.mark.parametrize(
    ("wrong", "code", "named"),
    [
        ({"question": ""}, "invalid_request", "problems.1.question"),
        ({"question": "x" * 501}, "invalid_request", "problems.1.question"),
        (QUESTION | {"policy": {"name": "dice"}}, "unknown_policy", "problems.1.policy"),
        (QUESTION | {"limits": {"max_steps": -1}}, "invalid_request", "problems.1.limits.max_steps"),
        (QUESTION | {"surprise": 1}, "invalid_request", "problems.1.surprise"),
        ("no object", "invalid_request", "problems.1"),
    ],
)
def test_one_wrong_problem_refuses_the_whole_batch_and_is_named(
    api: TestClient, database: Database, wrong: object, code: str, named: str
) -> None:
    before = count_problems(database)
    response = api.post("/v1/batches", json={"problems": [QUESTION, wrong, QUESTION]})
    assert named in wrong_fields(response, code)
    assert count_problems(database) == before


@pytest.mark.parametrize(("count", "code"), [(0, "invalid_request"), (6, "batch_too_large")])
def test_a_batch_that_is_empty_or_too_large_is_refused(api: TestClient, count: int, code: str) -> None:
    assert "problems" in wrong_fields(api.post("/v1/batches", json={"problems": [QUESTION] * count}), code)


def test_a_batch_adds_up_statuses_verdicts_steps_and_ledgers(api: TestClient, database: Database) -> None:
    made = submit_batch(api, 4)
    one, two, three, _ = made["problem_ids"]
    now = datetime.now(UTC)
    change(
        database,
        one,
        status="succeeded",
        verdict="correct",
        finished_at=now,
        small_kept=10,
        large_out=3,
        step_count=2,
        escalation_count=1,
    )
    change(
        database, two, status="succeeded", verdict="incorrect", finished_at=now, small_kept=5, prm_calls=2, step_count=1
    )
    change(database, three, status="failed", failure_code="engine_failed", failure_detail="It broke.", finished_at=now)
    batch = api.get(f"/v1/batches/{made['id']}").json()
    assert batch["size"] == 4
    assert batch["statuses"] == {"succeeded": 2, "failed": 1, "queued": 1}
    assert batch["verdicts"] == {"correct": 1, "incorrect": 1}
    assert (batch["steps"], batch["escalations"]) == (3, 1)
    expected = {each.name: 0 for each in fields(Ledger)} | {"small_kept": 15, "large_out": 3, "prm_calls": 2}
    assert batch["ledger"] == expected


def test_a_batch_lists_why_its_problems_failed_with_the_commonest_code_first(
    api: TestClient, database: Database
) -> None:
    made = submit_batch(api, 5)
    assert api.get(f"/v1/batches/{made['id']}").json()["failures"] == []
    for each, code, detail in zip(
        made["problem_ids"], ["large_away", "no_output", "no_output", "no_output"], ["", "One.", None, "Two."],
        strict=False,
    ):  # fmt: skip
        change(database, each, status="failed", failure_code=code, failure_detail=detail, finished_at=datetime.now(UTC))
    batch = api.get(f"/v1/batches/{made['id']}").json()
    assert batch["failures"] == [
        {"code": "no_output", "count": 3, "detail": "Two."},
        {"code": "large_away", "count": 1, "detail": ""},
    ]
    assert batch["status"] == "running"
    change(database, made["problem_ids"][4], status="expired", finished_at=datetime.now(UTC))
    assert api.get(f"/v1/batches/{made['id']}").json()["status"] == "ended"


def test_batches_are_listed_newest_first_with_their_status(api: TestClient, database: Database) -> None:
    made = [submit_batch(api, 2) for _ in range(4)]
    submit(api)
    for each in made[0]["problem_ids"]:
        change(database, each, status="succeeded", finished_at=datetime.now(UTC))
    assert api.post(made[2]["links"]["cancel"]).status_code == 202
    ids = [each["id"] for each in made]
    found = read_pages(api, "/v1/batches", lambda: submit_batch(api, 1), limit=3)
    listed = [each for each in found if each["id"] in ids]
    assert [each["id"] for each in listed] == ids[::-1]
    assert [each["status"] for each in listed] == ["running", "cancelling", "running", "ended"]
    assert {each["size"] for each in listed} == {2}
    assert all(api.get(each["links"]["self"]).json()["status"] == each["status"] for each in listed)
    is_refusal(api.get("/v1/batches?cursor=x"), 422, "bad_cursor")


def test_a_cancelled_batch_keeps_its_results_and_can_be_cancelled_again(api: TestClient, database: Database) -> None:
    made, other = submit_batch(api, 5), submit_batch(api, 1)
    ended, running, *_ = made["problem_ids"]
    change(database, ended, status="succeeded", answer="1", finished_at=datetime.now(UTC))
    change(database, running, status="running")
    first = api.post(made["links"]["cancel"])
    assert (first.status_code, first.json()["newly_cancelled"], first.json()["status"]) == (202, 4, "cancelling")
    shown = {each["id"]: each for each in read_pages(api, made["links"]["problems"])}
    assert [each for each, problem in shown.items() if problem["cancel_requested_at"] is None] == [ended]
    assert shown[ended]["answer"] == "1"
    again = api.post(made["links"]["cancel"])
    assert (again.status_code, again.json()["newly_cancelled"]) == (202, 0)
    assert again.json()["cancel_requested_at"] == first.json()["cancel_requested_at"]
    for each in made["problem_ids"][1:]:
        change(database, each, status="cancelled", finished_at=datetime.now(UTC))
    late = api.post(made["links"]["cancel"])
    assert (late.status_code, late.json()["newly_cancelled"], late.json()["status"]) == (200, 0, "ended")
    [alone] = read_pages(api, other["links"]["problems"])
    assert alone["cancel_requested_at"] is None


def test_a_batch_that_ended_has_no_cancellation(api: TestClient, database: Database) -> None:
    made = submit_batch(api, 1)
    change(database, made["problem_ids"][0], status="succeeded", finished_at=datetime.now(UTC))
    late = api.post(made["links"]["cancel"])
    assert (late.status_code, late.json()["cancel_requested_at"]) == (200, None)


def test_locked_problems_of_a_batch_hold_up_no_cancellation_of_the_others(
    api: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.api.lock_retries.LOCK_ATTEMPTS", 2)
    monkeypatch.setattr("services.api.native.batches.request_batch_cancel.__kwdefaults__", {"limit": 2})
    made = submit_batch(api, 5)
    locked = made["problem_ids"][1]
    with database.begin() as connection:
        connection.execute(text("SELECT FROM problems WHERE id = :id FOR UPDATE"), {"id": locked})
        refused = is_refusal(api.post(made["links"]["cancel"]), 503, "problem_locked")
        assert "1 problem" in refused["detail"]
    shown = read_pages(api, made["links"]["problems"])
    assert [each["id"] for each in shown if each["cancel_requested_at"] is None] == [locked]
    assert api.post(made["links"]["cancel"]).json()["newly_cancelled"] == 1


def count_problems(database: Database) -> int:
    with database.session() as session:
        return int(session.scalar(text("SELECT count(*) FROM problems")) or 0)


@pytest.mark.parametrize("rest", ["", "/problems"])
def test_an_unknown_batch_is_not_found_and_a_malformed_id_is_refused(api: TestClient, rest: str) -> None:
    assert api.get(f"/v1/batches/{uuid4()}{rest}").status_code == 404
    assert "batch_id" in wrong_fields(api.get(f"/v1/batches/1%00{rest}"))


def test_an_unknown_batch_cannot_be_cancelled(api: TestClient) -> None:
    is_refusal(api.post(f"/v1/batches/{uuid4()}/cancel"), 404, "not_found")
