"""Tenants see nothing of each other: an id of another tenant is as unknown as one that nothing has."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from services.api.app import create_app
from shared.domain.scopes import Scope
from shared.domain.status import Status
from shared.store import access
from shared.store.database import Database
from tests.integration.api.calls import QUESTION, add_step, change, is_refusal, submit_batch
from tests.integration.api.conftest import checked_client
from tests.integration.api.test_access import REQUIRED, bearer, operations, send
from tests.integration.api.test_described import UNKNOWN

pytestmark = pytest.mark.servers

SHARED = {"name", "version", "model"}
"""Parameters of paths that name what all tenants share: policies, their versions, and models."""


@pytest.fixture(scope="module")
def guarded(database: Database) -> FastAPI:
    return create_app(REQUIRED, database)


@pytest.fixture
def strict(guarded: FastAPI) -> TestClient:
    return checked_client(guarded)


def add_tenant(database: Database) -> tuple[UUID, dict[str, str]]:
    """Make a tenant; return its id, and the header of a key with all scopes."""
    with database.session() as session:
        row = access.create_tenant(session, uuid4().hex, {})
        return row.id, bearer(access.create_key(session, row.id, name="k", scopes=[*Scope]).text)


def fill(client: TestClient, database: Database, tenant_id: UUID, headers: dict[str, str]) -> dict[str, Any]:
    """Give a tenant one of everything that has an id; return the ids by the names of parameters."""
    made = client.post("/v1/problems", json=QUESTION, headers=headers).json()
    add_step(database, made["id"], 0)
    owner = TestClient(client.app, headers=headers)
    batch = submit_batch(owner, 2)
    key = client.post("/v1/keys", json={"name": "k", "scopes": ["read"]}, headers=headers).json()
    return {
        **UNKNOWN,
        "problem_id": made["id"],
        "batch_id": batch["id"],
        "key_id": key["id"],
        "tenant_id": str(tenant_id),
    }


def without_ids(response: httpx2.Response) -> tuple[int, str]:
    """Return status and body, with every id, of requests too, replaced."""
    return response.status_code, re.sub(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", response.text)


def test_every_route_that_takes_an_id_answers_for_another_tenants_as_for_an_unknown_one(
    guarded: FastAPI, strict: TestClient, database: Database
) -> None:
    owner_id, owner = add_tenant(database)
    _, other = add_tenant(database)
    theirs = fill(strict, database, owner_id, owner)
    looked_at = 0
    for name, route in operations(guarded):
        in_path = set(re.findall(r"{(\w+)", name)) - SHARED
        assert in_path <= theirs.keys(), f"{name} takes an id that this test does not know"
        in_query = {each.alias for each in route.dependant.query_params if each.alias.endswith("_id")}
        assert in_query <= theirs.keys(), f"{name} takes an id that this test does not know"
        unknown = {each: str(uuid4()) for each in theirs}
        for each in in_query:
            answers = [strict.get(f"{route.path}?{each}={ids[each]}", headers=other) for ids in (theirs, unknown)]
            assert without_ids(answers[0]) == without_ids(answers[1]), name
            looked_at += 1
        if not in_path:
            continue
        answers = [send(strict, name, {**theirs, **ids}, other) for ids in ({}, unknown)]
        assert without_ids(answers[0]) == without_ids(answers[1]), name
        assert answers[0].status_code in {403, 404}, name
        looked_at += 1
        if name.endswith("/events"):
            change(database, theirs["problem_id"], status=Status.CANCELLED)  # Otherwise the owner's stream would go on.
        if "{tenant_id}" not in name:  # Those need a key of the default tenant.
            assert send(strict, name, theirs, owner).status_code in range(200, 300), f"{name}: the owner may"
    assert looked_at >= 11


def test_listings_and_idempotency_keys_are_each_tenants_own(strict: TestClient, database: Database) -> None:
    (_, one), (_, other) = add_tenant(database), add_tenant(database)
    key = {"Idempotency-Key": "the-same"}
    made = [strict.post("/v1/problems", json=QUESTION, headers=each | key) for each in (one, other)]
    assert [each.status_code for each in made] == [201, 201]
    assert made[0].json()["id"] != made[1].json()["id"]
    for response, headers in zip(made, (one, other), strict=True):
        listed = strict.get("/v1/problems", headers=headers).json()["items"]
        assert [each["id"] for each in listed] == [response.json()["id"]]
    strict.post("/v1/problems", json=QUESTION, headers=one)
    cursor = strict.get("/v1/problems?limit=1", headers=one).json()["next_cursor"]
    beyond = strict.get("/v1/problems", params={"cursor": cursor}, headers=other).json()["items"]
    assert {each["id"] for each in beyond} <= {made[1].json()["id"]}


def test_a_cancellation_of_another_tenants_problem_cancels_nothing(strict: TestClient, database: Database) -> None:
    (_, one), (_, other) = add_tenant(database), add_tenant(database)
    made = strict.post("/v1/problems", json=QUESTION, headers=one).json()
    is_refusal(strict.post(made["links"]["cancel"], headers=other), 404, "not_found")
    assert strict.get(made["links"]["self"], headers=one).json()["cancel_requested_at"] is None
