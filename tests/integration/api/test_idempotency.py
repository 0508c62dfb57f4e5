"""A retry with the same Idempotency-Key creates nothing."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from fastapi import FastAPI
from sqlalchemy import text
from starlette.testclient import TestClient

from shared.store.database import Database
from tests.integration.api.calls import JSON, PATIENCE_S, QUESTION, is_blocked, is_refusal, until, wrong_fields

pytestmark = pytest.mark.servers


def test_the_same_key_and_body_give_the_same_problem(api: TestClient) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    first = api.post("/v1/problems", json=QUESTION, headers=key)
    again = api.post("/v1/problems", content='{ "question":"What is 6 times 7?" }', headers=key | JSON)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json(), "the drawn seed is the first one's"
    assert first.headers["location"] == again.headers["location"]


def test_the_same_key_with_another_body_is_a_conflict(api: TestClient) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    api.post("/v1/problems", json=QUESTION, headers=key)
    other = api.post("/v1/problems", json=QUESTION | {"lookahead": 1}, headers=key)
    is_refusal(other, 409, "idempotency_conflict")


def test_the_same_key_and_batch_give_the_same_batch(api: TestClient) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    body = {"problems": [QUESTION, QUESTION | {"reference": "42"}]}
    turned = {"problems": [QUESTION, {"reference": "42"} | QUESTION]}
    first = api.post("/v1/batches", json=body, headers=key)
    again = api.post("/v1/batches", json=turned, headers=key)
    assert (first.status_code, again.status_code) == (201, 200), again.text
    assert first.json()["problem_ids"] == again.json()["problem_ids"]
    other = api.post("/v1/batches", json={"problems": [QUESTION]}, headers=key)
    is_refusal(other, 409, "idempotency_conflict")


@pytest.mark.parametrize("key", ["", "x" * 201, "tab\there", "caf\u00e9"])
def test_a_key_that_is_empty_too_long_or_not_printable_is_refused(api: TestClient, key: str) -> None:
    response = api.post("/v1/problems", json=QUESTION, headers={"Idempotency-Key": key.encode("latin-1")})
    assert "idempotency-key" in wrong_fields(response).lower()


@pytest.mark.parametrize(("path", "body"), [("/v1/problems", QUESTION), ("/v1/batches", {"problems": [QUESTION] * 2})])
def test_submissions_with_one_key_at_the_same_time_make_one_problem(
    app: FastAPI, path: str, body: dict[str, object]
) -> None:
    key, count = {"Idempotency-Key": uuid4().hex}, 8
    together = threading.Barrier(count)

    def send() -> tuple[int, str]:
        api = TestClient(app)
        together.wait(PATIENCE_S)
        response = api.post(path, json=body, headers=key)
        return response.status_code, response.json()["id"]

    with ThreadPoolExecutor(count) as pool:
        answers = [each.result() for each in [pool.submit(send) for _ in range(count)]]
    assert sorted(status for status, _ in answers) == [200] * (count - 1) + [201]
    assert len({made for _, made in answers}) == 1


def test_a_second_submission_waits_for_the_commit_of_the_first(
    app: FastAPI, api: TestClient, database: Database
) -> None:
    """The first transaction is open when the second request arrives, so a read before the insert could not see it."""
    known_key, open_key = uuid4().hex, uuid4().hex
    first = api.post("/v1/problems", json=QUESTION, headers={"Idempotency-Key": known_key}).json()
    with ThreadPoolExecutor(1) as pool:
        with database.session() as session:
            copy = text(
                "INSERT INTO idempotency_keys (tenant_id, key, request_digest, problem_id)"
                " SELECT tenant_id, :open_key, request_digest, problem_id FROM idempotency_keys WHERE key = :known_key"
            )
            session.execute(copy, {"open_key": open_key, "known_key": known_key})
            second = pool.submit(
                TestClient(app).post, "/v1/problems", json=QUESTION, headers={"Idempotency-Key": open_key}
            )
            until(lambda: is_blocked(database))
        response = second.result(PATIENCE_S)
    assert (response.status_code, response.json()["id"]) == (200, first["id"])


@pytest.mark.parametrize("first", ["/v1/problems", "/v1/batches"])
def test_problems_and_batches_share_their_keys(api: TestClient, first: str) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    bodies = {"/v1/problems": QUESTION, "/v1/batches": {"problems": [QUESTION]}}
    assert api.post(first, json=bodies.pop(first), headers=key).status_code == 201
    ((second, body),) = bodies.items()
    is_refusal(api.post(second, json=body, headers=key), 409, "idempotency_conflict")
