"""Every endpoint answers as its description says; the client of these tests checks each response against it."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from starlette.testclient import TestClient

from shared.domain.status import Status
from shared.store.database import Database
from tests.integration.api.calls import QUESTION, add_step, change, submit, submit_batch
from tests.integration.api.described import OPERATIONS

pytestmark = pytest.mark.servers

BODIES: dict[str, Any] = {
    "POST /v1/problems": QUESTION,
    "POST /v1/batches": {"problems": [QUESTION]},
    "POST /v1/policies/{name}/versions": {"card": {}, "arrays": ""},
    "POST /v1/keys": {"name": "nightly", "scopes": ["read"]},
    "POST /v1/keys/{key_id}/rotate": {"overlap_s": 60},
    "POST /v1/tenants": {"name": "research"},
    "PATCH /v1/tenants/{tenant_id}": {"max_queued": 1000},
    "POST /v1/tenants/{tenant_id}/keys": {"name": "first", "scopes": ["admin"]},
    "POST /v1/chat/completions": {"model": "trim", "messages": [{"role": "user", "content": "What?"}]},
}
UNKNOWN = {
    **dict.fromkeys(("problem_id", "batch_id", "key_id", "tenant_id"), UUID(int=1)), "name": "pomdp",
    "version": 1, "model": "trim",
}  # fmt: skip

WAITING = ("POST /v1/chat/completions",)
"""Operations that answer once a problem has ended, which none does here."""


def send(api: TestClient, operation: str, values: dict[str, Any], *, query: str = "", body: Any = None) -> int:
    method, path = operation.split(" ")
    sent = BODIES.get(operation) if body is None else body
    if operation == "POST /v1/tenants" and body is None:
        sent = {"name": uuid4().hex}
    return api.request(method, path.format(**values) + query, json=sent).status_code


@pytest.mark.parametrize("name", [each for each in OPERATIONS if each not in WAITING])
def test_every_endpoint_answers_as_described(api: TestClient, database: Database, name: str) -> None:
    made, batch = submit(api, reference="42"), submit_batch(api, 2)
    for step in range(2):
        add_step(database, made["id"], step)
    if name.endswith("/events"):
        change(database, made["id"], status=Status.CANCELLED)  # Otherwise its stream would go on.
    key = api.post("/v1/keys", json={"name": "k", "scopes": ["read"]}).json()
    values = {
        **UNKNOWN,
        "problem_id": made["id"],
        "batch_id": batch["id"],
        "key_id": key["id"],
        "tenant_id": UUID(int=0),
        "model": "trim",
    }
    unknown = {**UNKNOWN, "name": "nothing", "model": "nothing"}
    has_versions = "{version}" in name or name.endswith(("/default", "{name}/versions"))
    assert send(api, name, values) in ((200, 404, 422) if has_versions else (200, 201, 202))
    assert send(api, name, unknown) in ((404,) if "{" in name else (200, 201))
    wrong = 400 if "/v1/models" in name else 422
    assert send(api, name, values, query="?unknown=1") == (200 if "/health/" in name else wrong)
    if name in BODIES:
        assert send(api, name, values, body=[]) == 422


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_endpoint_answers_as_described_without_a_database(dead_api: TestClient, name: str) -> None:
    assert send(dead_api, name, {**UNKNOWN, "model": "trim"}) in {200, 422, 503}


@pytest.mark.parametrize(("path", "body"), [("/v1/problems", QUESTION), ("/v1/batches", {"problems": [QUESTION]})])
def test_a_repeated_key_answers_as_described(api: TestClient, path: str, body: dict[str, Any]) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    assert [api.post(path, json=body, headers=key).status_code for _ in range(2)] == [201, 200]
    assert api.post(path, json=body | {"x": 1}, headers=key).status_code == 422
    other = {"question": "Other?"} if path == "/v1/problems" else {"problems": [QUESTION] * 2}
    assert api.post(path, json=other, headers=key).status_code == 409


@pytest.mark.parametrize("status", [each for each in Status if each.is_final])
def test_cancelling_what_has_ended_answers_as_described(api: TestClient, database: Database, status: Status) -> None:
    made = submit(api)
    assert api.post(made["links"]["cancel"]).status_code == 202
    change(database, made["id"], status=status)
    assert api.post(made["links"]["cancel"]).status_code == 200
