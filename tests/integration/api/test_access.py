"""Who may use the API: keys, scopes, rotation and revocation, and what readiness shows to whom."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy import text
from starlette.testclient import TestClient

from services.api.access import middleware
from services.api.access.callers import scope_needed
from services.api.access.keyring import LIFE_S
from services.api.app import create_app
from services.api.openai.errors import has_openai_form
from shared.domain.scopes import Scope
from shared.store import access
from shared.store.admission import record_processes
from shared.store.database import Database
from shared.store.port import SeenProcess
from shared.store.tables import DEFAULT_TENANT
from tests.integration.api.calls import QUESTION, SETTINGS, is_refusal, read_pages, submit, until
from tests.integration.api.conftest import checked_client
from tests.integration.api.test_described import BODIES, UNKNOWN, WAITING

pytestmark = pytest.mark.servers

REQUIRED = SETTINGS.model_copy(update={"api_keys": "required"})
OPEN = {"GET /health/live", "GET /health/ready"}
NEED_ADMIN = {
    "GET /v1/keys", "POST /v1/keys", "POST /v1/keys/{key_id}/rotate", "POST /v1/keys/{key_id}/revoke",
    "GET /v1/tenants", "POST /v1/tenants", "PATCH /v1/tenants/{tenant_id}", "POST /v1/tenants/{tenant_id}/keys",
    "POST /v1/policies/{name}/versions", "POST /v1/policies/{name}/versions/{version}/default",
    "POST /v1/policies/{name}/versions/{version}/retire",
}  # fmt: skip

Make = Callable[..., str]


@pytest.fixture(scope="module")
def guarded(database: Database) -> FastAPI:
    """The app of a deployment that requires keys."""
    return create_app(REQUIRED, database)


@pytest.fixture
def strict(guarded: FastAPI) -> TestClient:
    return checked_client(guarded)


@pytest.fixture
def make(database: Database) -> Make:
    """Make a key, by default of the default tenant and with all scopes."""

    def create(*scopes: Scope, tenant_id: UUID = DEFAULT_TENANT, **values: Any) -> str:
        with database.session() as session:
            return access.create_key(session, tenant_id, name="k", scopes=scopes or [*Scope], **values).text

    return create


@pytest.fixture
def later(guarded: FastAPI, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let pass the time for which a process relies on what it knows of keys."""
    passed_s = 0.0
    monkeypatch.setattr(guarded.state.gate._keyring, "_monotonic", lambda: time.monotonic() + passed_s)

    def pass_on() -> None:
        nonlocal passed_s
        passed_s += LIFE_S

    return pass_on


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def operations(app: FastAPI) -> Iterator[tuple[str, Any]]:
    """List all routes of the app, each as its method and path, also those that no description has."""
    for route in iter_route_contexts(app.routes):
        if route.path != "/openapi.json":
            yield from ((f"{method} {route.path}", route) for method in sorted(route.methods or ()))


def send(api: TestClient, name: str, values: dict[str, Any], headers: dict[str, str]) -> httpx2.Response:
    method, path = name.split(" ")
    return api.request(method, path.format(**values), json=BODIES.get(name), headers=headers)


def explain(response: httpx2.Response, status: int, code: str) -> str:
    """Check a refusal in the form of its path, and return the sentence."""
    if not has_openai_form({"path": response.request.url.path}):
        detail: str = is_refusal(response, status, code)["detail"]
        return detail
    assert response.status_code == status
    error = response.json()["error"]
    assert error["code"] == code
    assert error["type"] == ("authentication_error" if status == 401 else "permission_error")
    return str(error["message"])


def test_every_route_needs_a_key_and_the_scope_that_its_method_or_itself_names(
    guarded: FastAPI, strict: TestClient, make: Make
) -> None:
    found = dict(operations(guarded))
    assert set(found) >= OPEN | NEED_ADMIN
    for name, route in found.items():
        needed = scope_needed(name.split(" ")[0], route.openapi_extra)
        assert (needed is None) == (name in OPEN), name
        assert (needed is Scope.ADMIN) == (name in NEED_ADMIN), name
        if needed is None:
            assert send(strict, name, UNKNOWN, {}).status_code in {200, 503}
            continue
        refused = send(strict, name, UNKNOWN, {})
        explain(refused, 401, "unauthenticated")
        assert refused.headers["www-authenticate"] == "Bearer"
        others = make(*(each for each in Scope if each is not needed))
        assert f"`{needed}`" in explain(send(strict, name, UNKNOWN, bearer(others)), 403, "scope_missing")
        if name not in WAITING:
            assert send(strict, name, UNKNOWN, bearer(make(needed))).status_code not in {401, 403}, name


def test_a_path_without_a_route_needs_a_key_and_the_description_none(strict: TestClient, make: Make) -> None:
    is_refusal(strict.get("/v1/nothing"), 401, "unauthenticated")
    is_refusal(strict.get("/v1/nothing", headers=bearer(make())), 404, "no_such_path")
    described = strict.get("/openapi.json").json()
    assert described["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert described["paths"]["/v1/problems"]["get"]["security"] == [{"key": ["read"]}]
    assert described["paths"]["/v1/problems"]["post"]["security"] == [{"key": ["submit"]}]
    assert described["paths"]["/v1/keys"]["get"]["security"] == [{"key": ["admin"]}]
    assert described["paths"]["/health/live"]["get"]["security"] == []


@pytest.mark.parametrize("scheme", ["Basic", "Token", ""])
def test_only_the_scheme_bearer_is_read(strict: TestClient, make: Make, scheme: str) -> None:
    key = make()
    is_refusal(strict.get("/v1/problems", headers={"Authorization": f"{scheme} {key}"}), 401, "unauthenticated")
    assert strict.get("/v1/problems", headers={"Authorization": f"bEARER  {key}"}).status_code == 200
    is_refusal(strict.get(f"/v1/problems?key={key}"), 401, "unauthenticated")
    twice = [("Authorization", f"Bearer {key}")] * 2
    is_refusal(strict.get("/v1/problems", headers=twice), 401, "unauthenticated")


def test_a_refused_request_has_no_body_read_and_tells_apart_only_what_its_key_tells(
    strict: TestClient, make: Make, later: Callable[[], None], database: Database
) -> None:
    valid = make()
    wrong = f"{valid[:-1]}{'0' if valid[-1] != '0' else '1'}"
    bodies = []
    for key in (wrong, f"trim_{'0' * 10}_{'0' * 64}", "anything"):
        response = strict.post("/v1/problems", content=b"not JSON", headers=bearer(key))
        bodies.append(is_refusal(response, 401, "unauthenticated") | {"request_id": ""})
    assert bodies[0] == bodies[1] == bodies[2]
    assert strict.get("/v1/problems", headers=bearer(make(expires_in_s=3.5))).status_code == 200
    expired = make(expires_in_s=0.001)
    with database.session() as session:
        session.execute(text("SELECT pg_sleep(0.01)"))
    is_refusal(strict.get("/v1/problems", headers=bearer(expired)), 401, "key_expired")


def test_where_no_key_is_needed_a_presented_one_is_checked_and_other_credentials_are_not(
    api: TestClient, make: Make, database: Database
) -> None:
    assert api.get("/v1/problems").status_code == 200
    for ignored in ("Basic dXNlcjpwYXNz", "Bearer EMPTY", "Bearer sk-placeholder"):
        assert api.get("/v1/problems", headers={"Authorization": ignored}).status_code == 200
    is_refusal(api.get("/v1/problems", headers=bearer("trim_x")), 401, "unauthenticated")
    with database.session() as session:
        tenant_id = access.create_tenant(session, uuid4().hex, {}).id
    submit(api)
    assert api.get("/v1/problems", headers=bearer(make(tenant_id=tenant_id))).json()["items"] == []
    is_refusal(api.post("/v1/problems", json=QUESTION, headers=bearer(make(Scope.READ))), 403, "scope_missing")


def test_a_key_is_shown_once_and_stored_as_a_hash(strict: TestClient, make: Make, database: Database) -> None:
    admin = bearer(make())
    made = strict.post(
        "/v1/keys", json={"name": "nightly", "scopes": ["read", "submit"], "expires_in_s": 3600}, headers=admin
    )
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    key = made.json()
    assert key["key"].startswith(f"trim_{key['prefix']}_")
    assert key["scopes"] == ["submit", "read"]
    [listed] = [each for each in strict.get("/v1/keys", headers=admin).json()["items"] if each["id"] == key["id"]]
    assert listed == {name: value for name, value in key.items() if name != "key"}
    lifetime = datetime.fromisoformat(listed["expires_at"]) - datetime.fromisoformat(listed["created_at"])
    assert lifetime.total_seconds() == pytest.approx(3600)
    secret = key["key"].rpartition("_")[2]
    with database.session() as session:
        stored = session.execute(text("SELECT api_keys::text FROM api_keys")).scalars().all()
    assert len(stored) > 1
    assert not any(secret in each or bytes.fromhex(secret).hex() in each for each in stored)


@pytest.mark.parametrize(
    "body",
    [
        {"name": "k"}, {"name": "k", "scopes": []}, {"name": "k", "scopes": ["root"]},
        {"name": " ", "scopes": ["read"]},
        {"name": "k", "scopes": ["read"], "expires_in_s": 0}, {"name": "k\x00", "scopes": ["read"]},
        {"name": "k", "scopes": ["read"], "tenant_id": str(uuid4())},
    ],
)  # fmt: skip
def test_a_key_without_a_name_or_with_unknown_scopes_is_refused(api: TestClient, body: dict[str, Any]) -> None:
    is_refusal(api.post("/v1/keys", json=body), 422, "invalid_request")


def test_a_revoked_key_is_refused_within_seconds_and_stays_revoked(
    strict: TestClient, make: Make, later: Callable[[], None]
) -> None:
    admin = bearer(make())
    key = strict.post("/v1/keys", json={"name": "k", "scopes": ["read"]}, headers=admin).json()
    used = bearer(key["key"])
    assert strict.get("/v1/problems", headers=used).status_code == 200
    revoked = [strict.post(f"/v1/keys/{key['id']}/revoke", headers=admin).json() for _ in range(2)]
    assert revoked[0]["revoked_at"]
    assert revoked[0] == revoked[1]
    later()
    is_refusal(strict.get("/v1/problems", headers=used), 401, "key_revoked")
    is_refusal(strict.post(f"/v1/keys/{key['id']}/rotate", json={}, headers=admin), 409, "key_ended")


def test_a_rotation_has_both_keys_work_for_the_overlap_and_happens_once(
    strict: TestClient, make: Make, later: Callable[[], None], database: Database
) -> None:
    admin = bearer(make())
    body = {"name": "k", "scopes": ["read"], "expires_in_s": 1000}
    old = strict.post("/v1/keys", json=body, headers=admin).json()
    new = strict.post(f"/v1/keys/{old['id']}/rotate", json={"overlap_s": 60}, headers=admin).json()
    assert (new["name"], new["scopes"], new["replaces"]) == ("k", ["read"], old["id"])
    lifetimes = [
        datetime.fromisoformat(each["expires_at"]) - datetime.fromisoformat(each["created_at"]) for each in (old, new)
    ]
    assert lifetimes[0] == lifetimes[1]
    for key in (old, new):
        assert strict.get("/v1/problems", headers=bearer(key["key"])).status_code == 200
    listed = {each["id"]: each for each in strict.get("/v1/keys", headers=admin).json()["items"]}
    assert listed[old["id"]]["expires_at"] < old["expires_at"]
    is_refusal(strict.post(f"/v1/keys/{old['id']}/rotate", json={}, headers=admin), 409, "key_ended")
    with database.session() as session:
        session.execute(text("UPDATE api_keys SET expires_at = now() WHERE id = :id"), {"id": old["id"]})
    later()
    is_refusal(strict.get("/v1/problems", headers=bearer(old["key"])), 401, "key_expired")
    assert strict.get("/v1/problems", headers=bearer(new["key"])).status_code == 200
    again = strict.post(f"/v1/keys/{new['id']}/rotate", json={"overlap_s": 0}, headers=admin)
    assert again.status_code == 201


def test_the_last_use_of_a_key_is_recorded_in_the_background(
    guarded: FastAPI, make: Make, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "RECORD_EVERY_S", 0.01)
    key = make(Scope.READ)

    def last_used() -> datetime | None:
        with database.session() as session:
            found: datetime | None = session.scalar(
                text("SELECT last_used_at FROM api_keys WHERE prefix = :prefix"), {"prefix": access.prefix_of(key)}
            )
        return found

    assert last_used() is None
    with TestClient(guarded) as client:
        assert client.get("/v1/problems", headers=bearer(key)).status_code == 200
        until(lambda: last_used() is not None)


def test_pages_of_keys_are_of_the_tenant_alone(api: TestClient, make: Make, database: Database) -> None:
    with database.session() as session:
        tenant_id = access.create_tenant(session, uuid4().hex, {}).id
    own = bearer(make(tenant_id=tenant_id))
    for _ in range(3):
        make(tenant_id=tenant_id)
    listed = read_pages(api.__class__(api.app, headers=own), "/v1/keys", limit=2)
    assert len(listed) == 4
    assert listed == sorted(listed, key=lambda each: each["id"], reverse=True)
    other = api.get("/v1/keys?limit=1").json()["next_cursor"]
    assert api.get("/v1/keys", params={"cursor": other}, headers=own).json()["items"] in ([], listed)
    is_refusal(api.get("/v1/keys?cursor=x"), 422, "bad_cursor")


def test_readiness_shows_everyone_what_is_down_and_details_to_readers_alone(
    strict: TestClient, api: TestClient, make: Make, database: Database
) -> None:
    name = f"host-of-{uuid4().hex}"
    with database.begin() as connection:
        now = connection.scalar(text("SELECT now()"))
        record_processes(connection, [SeenProcess(name, role="small", model="secret-model", seen_at=now)])
    hidden = [strict.get("/health/ready"), strict.get("/health/ready", headers=bearer(make(Scope.SUBMIT)))]
    shown = [strict.get("/health/ready", headers=bearer(make(Scope.READ))), api.get("/health/ready")]
    for response in hidden:
        assert name not in response.text
        assert "secret-model" not in response.text
    for response in shown:
        assert name in response.text
    bodies = [response.json() for response in (*hidden, *shown)]
    assert all(each["down"] == bodies[0]["down"] != [] for each in bodies)
    assert all(
        [part["is_up"] for part in each["parts"]] == [part["is_up"] for part in bodies[0]["parts"]] for each in bodies
    )
    is_refusal(strict.get("/health/ready", headers=bearer("trim_x")), 401, "unauthenticated")


def test_without_a_database_liveness_and_a_summary_remain(dead_api: TestClient) -> None:
    strict = checked_client(create_app(REQUIRED, dead_api.app.state.database))  # type: ignore[attr-defined]
    key = bearer(f"trim_{'0' * 10}_{'0' * 64}")
    assert strict.get("/health/live", headers=bearer("trim_x")).status_code == 200
    assert strict.get("/health/ready", headers=key).status_code == 503
    refused = strict.get("/v1/problems", headers=key)
    is_refusal(refused, 503, "database_unavailable")
    assert "www-authenticate" not in refused.headers


def test_tenants_are_managed_by_admins_of_the_default_tenant_alone(
    strict: TestClient, make: Make, later: Callable[[], None]
) -> None:
    operator, name = bearer(make()), uuid4().hex
    made = strict.post("/v1/tenants", json={"name": name, "max_queued": 3}, headers=operator).json()
    assert (made["name"], made["max_queued"], made["max_running"]) == (name, 3, None)
    is_refusal(strict.post("/v1/tenants", json={"name": name}, headers=operator), 409, "tenant_exists")
    first = strict.post(f"/v1/tenants/{made['id']}/keys", json={"name": "f", "scopes": [*Scope]}, headers=operator)
    own = bearer(first.json()["key"])
    assert [each["prefix"] for each in strict.get("/v1/keys", headers=own).json()["items"]] == [first.json()["prefix"]]
    for path in (f"/v1/tenants/{made['id']}", f"/v1/tenants/{uuid4()}"):
        is_refusal(strict.patch(path, json={"max_queued": 9}, headers=own), 403, "default_tenant_only")
        is_refusal(
            strict.post(f"{path}/keys", json={"name": "f", "scopes": ["read"]}, headers=own), 403, "default_tenant_only"
        )
    is_refusal(strict.get("/v1/tenants", headers=own), 403, "default_tenant_only")
    changed = strict.patch(f"/v1/tenants/{made['id']}", json={"max_queued": None, "max_running": 2}, headers=operator)
    assert (changed.json()["name"], changed.json()["max_queued"], changed.json()["max_running"]) == (name, None, 2)
    is_refusal(
        strict.patch(f"/v1/tenants/{made['id']}", json={"name": "default"}, headers=operator), 409, "tenant_exists"
    )
    for wrong in ({"name": None}, {"max_queued": 0}, {"limits": {}}, {"name": "Research"}):
        is_refusal(strict.patch(f"/v1/tenants/{made['id']}", json=wrong, headers=operator), 422, "invalid_request")


def test_no_log_line_has_a_key(strict: TestClient, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    admin = make()
    made = strict.post("/v1/keys", json={"name": "k", "scopes": ["read"]}, headers=bearer(admin)).json()
    strict.post("/v1/problems", json={"question": 1}, headers=bearer(admin))
    lines = json.dumps([str(each.msg) for each in caplog.records])
    assert admin not in lines
    assert made["key"] not in lines
