"""Limits of tenants: requests of a minute, and queued problems."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from services.api.access import middleware
from services.api.access.rates import Rates
from services.api.app import create_app
from shared.domain.scopes import Scope
from shared.store import access
from shared.store.database import Database
from shared.store.quotas import Counted, add_requests
from tests.integration.api.calls import QUESTION, SETTINGS, is_refusal, until
from tests.integration.api.conftest import checked_client
from tests.integration.api.test_access import bearer

pytestmark = pytest.mark.servers

MINUTE = 29_000_000


def add_tenant(database: Database, **limits: int | None) -> tuple[UUID, dict[str, str]]:
    """Make a tenant; return its id, and the header of a key with all scopes."""
    with database.session() as session:
        row = access.create_tenant(session, uuid4().hex, limits)
        return row.id, bearer(access.create_key(session, row.id, name="k", scopes=[*Scope]).text)


def within_a_minute(app: FastAPI) -> TestClient:
    """Return a client of the app, whose clock stands still."""
    app.state.gate._rates = Rates(time_s=lambda: MINUTE * 60 + 18.5)
    return checked_client(app)


def test_requests_with_keys_are_counted_and_refused_past_the_limit(database: Database) -> None:
    api = within_a_minute(create_app(SETTINGS, database))
    _, headers = add_tenant(database, requests_per_minute=3)
    found = [api.get("/v1/policies", headers=headers), api.get("/v1/nothing", headers=headers)]
    found.append(api.head("/v1/policies", headers=headers))
    assert [each.status_code for each in found] == [200, 404, 200]
    assert [each.headers["ratelimit"] for each in found] == [f'"requests";r={left};t=42' for left in (2, 1, 0)]
    assert {each.headers["ratelimit-policy"] for each in found} == {'"requests";q=3;w=60'}
    refused = api.post("/v1/problems", json=QUESTION, headers=headers)
    is_refusal(refused, 429, "rate_limited")
    assert (refused.headers["retry-after"], refused.headers["ratelimit"]) == ("42", '"requests";r=0;t=42')
    assert api.get("/health/ready", headers=headers).status_code == 200
    _, unlimited = add_tenant(database)
    for free in (unlimited, {}):
        assert "ratelimit" not in api.get("/v1/policies", headers=free).headers


def test_the_deployments_limit_holds_for_tenants_without_one(database: Database) -> None:
    settings = SETTINGS.model_copy(update={"tenant_requests_per_minute": 1, "tenant_max_queued": 1})
    api = within_a_minute(create_app(settings, database))
    (_, bound), (_, free) = add_tenant(database), add_tenant(database, requests_per_minute=9, max_queued=9)
    assert [api.post("/v1/problems", json=QUESTION, headers=bound).status_code for _ in range(2)] == [201, 429]
    assert [api.post("/v1/problems", json=QUESTION, headers=free).status_code for _ in range(2)] == [201, 201]


def test_processes_learn_of_each_others_requests(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "RECORD_EVERY_S", 0.01)
    _, headers = add_tenant(database, requests_per_minute=1000)
    apps = [create_app(SETTINGS, database) for _ in range(2)]

    def left(client: TestClient) -> int:
        found = client.get("/v1/policies", headers=headers).headers["ratelimit"]
        return int(found.partition("r=")[2].partition(";")[0])

    with TestClient(apps[0]) as one, TestClient(apps[1]) as other:
        for _ in range(50):
            left(one)
        until(lambda: left(other) < 950)


def test_counts_of_a_minute_add_up_and_older_ones_are_dropped(database: Database) -> None:
    (one, _), (other, _) = add_tenant(database), add_tenant(database)

    def add(*counted: tuple[UUID, int, int]) -> dict[UUID, tuple[int, int]]:
        with database.begin() as connection:
            totals = add_requests(connection, [Counted(*each) for each in counted])
        assert totals.now_s > MINUTE * 60
        return {each.tenant_id: (each.minute, each.requests) for each in totals.counts}

    assert add((other, MINUTE, 2), (one, MINUTE, 1)) == {one: (MINUTE, 1), other: (MINUTE, 2)}
    assert add((one, MINUTE, 4)) == {one: (MINUTE, 5)}
    assert add((one, MINUTE + 1, 3)) == {one: (MINUTE + 1, 3)}
    assert add((one, MINUTE, 9)) == {one: (MINUTE + 1, 3)}
    assert add() == {}


def batch(size: int) -> dict[str, Any]:
    return {"problems": [QUESTION] * size}


def test_a_full_queue_refuses_a_submission_as_a_whole_but_not_its_repetition(
    api: TestClient, database: Database
) -> None:
    _, headers = add_tenant(database, max_queued=3)
    key = {"Idempotency-Key": "a-batch"}
    first = api.post("/v1/batches", json=batch(2), headers=headers | key)
    assert first.status_code == 201
    refused = api.post("/v1/batches", json=batch(2), headers=headers | {"Idempotency-Key": "another"})
    assert "3 problems queued" in is_refusal(refused, 429, "backlog_full")["detail"]
    assert int(refused.headers["retry-after"]) > 0
    assert api.post("/v1/problems", json=QUESTION, headers=headers).status_code == 201
    is_refusal(api.post("/v1/problems", json=QUESTION, headers=headers), 429, "backlog_full")
    again = api.post("/v1/batches", json=batch(2), headers=headers | key)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    assert len(api.get("/v1/problems", headers=headers).json()["items"]) == 3
    larger = is_refusal(api.post("/v1/batches", json=batch(4), headers=headers), 422, "batch_too_large")
    assert "may have 3 queued" in larger["detail"]
    with database.begin() as connection:
        connection.exec_driver_sql(f"UPDATE problems SET status = 'running' WHERE batch_id = '{first.json()['id']}'")
    freed = api.post("/v1/batches", json=batch(2), headers=headers | {"Idempotency-Key": "another"})
    assert freed.status_code == 201, "the refused attempt left no idempotency key"


def test_submissions_at_the_same_time_do_not_exceed_the_limit_together(api: TestClient, database: Database) -> None:
    _, headers = add_tenant(database, max_queued=5)
    ready = threading.Barrier(8)

    def submit_one() -> int:
        ready.wait(60)
        return api.post("/v1/problems", json=QUESTION, headers=headers).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = [each.result() for each in [pool.submit(submit_one) for _ in range(8)]]
    assert sorted(statuses) == [201] * 5 + [429] * 3
