"""Requests that cannot be carried out: every answer is problem+json and says what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from uuid import uuid4

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from services.api.app import create_app
from shared.store.database import Database
from tests.integration.api.calls import JSON, QUESTION, SETTINGS, is_refusal, submit

pytestmark = pytest.mark.servers


@pytest.mark.parametrize(
    "body", [b"{", b"", b"[]", b"null", b'"text"', b'{"question": "a" "b"}', b"[" * 50_000, b"9" * 5_000]
)
def test_a_body_that_is_no_json_object_is_refused(api: TestClient, body: bytes) -> None:
    response = api.post("/v1/problems", content=body, headers=JSON)
    assert response.status_code in (400, 422)
    is_refusal(response, response.status_code, response.json()["code"])


@pytest.mark.parametrize(
    "body",
    [b'{"question": "\xff\xfe"}', '{"question": "Où?"}'.encode("latin-1"), '{"question": "Où?"}'.encode("utf-16")],
)
def test_a_body_that_is_not_utf_8_is_refused(api: TestClient, body: bytes) -> None:
    refused = is_refusal(api.post("/v1/problems", content=body, headers=JSON), 400, "malformed_body")
    assert "UTF-8" in refused["detail"]


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "json",
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonl",
        "application/json/x",
        "application/json, text/plain",
        "application/+json",
        "application/a b+json",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
        "application/json; charset=",
        "application/json; charset=utf-8; charset=latin-1",
    ],
)
@pytest.mark.parametrize(("path", "body"), [("/v1/problems", QUESTION), ("/v1/batches", {"problems": [QUESTION]})])
def test_a_body_that_is_not_sent_as_json_is_refused_with_what_to_send(
    api: TestClient, path: str, body: dict[str, object], content_type: str | None
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = api.post(path, content=json.dumps(body), headers=headers)
    refused = is_refusal(response, 415, "unsupported_media_type")
    assert "content-type: application/json" in refused["detail"]
    assert refused["errors"] == []


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json;charset=utf-8",
        'application/json ; Charset="UTF-8"',
        "application/json; charset=utf8",
        "application/json; profile=short",
        "application/json;",
        "application/vnd.example.v1+json",
        "application/problem+json; charset=utf-8",
    ],
)
def test_json_may_be_sent_under_any_of_its_names(api: TestClient, content_type: str) -> None:
    response = api.post("/v1/problems", content=json.dumps(QUESTION), headers={"Content-Type": content_type})
    assert response.status_code == 201, response.text


def test_a_request_that_takes_no_body_needs_no_content_type(api: TestClient) -> None:
    made = submit(api)
    for headers in ({}, {"Content-Type": "text/plain"}):
        assert api.post(made["links"]["cancel"], headers=headers).status_code == 202


def test_a_body_over_the_limit_is_refused_with_its_length_announced(api: TestClient) -> None:
    body = json.dumps({"question": "x" * SETTINGS.max_body_bytes})
    is_refusal(api.post("/v1/problems", content=body, headers=JSON), 413, "body_too_large")


def test_a_body_over_the_limit_is_refused_without_a_length_too(api: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 10_000

    is_refusal(api.post("/v1/problems", content=pieces(), headers=JSON), 413, "body_too_large")


@pytest.mark.parametrize("path", ["/v1/policies", "/nowhere", "/v1/problems"])
def test_a_body_over_the_limit_that_nobody_reads_gets_no_plain_text(api: TestClient, path: str) -> None:
    response = api.request("GET", path, content=b"x" * (SETTINGS.max_body_bytes + 1))
    assert response.status_code in (200, 404, 413)
    assert "json" in response.headers["content-type"]
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/problems"),
        ("GET", "/v1/problems"),
        ("GET", f"/v1/problems/{uuid4()}"),
        ("GET", f"/v1/problems/{uuid4()}?wait_s=5"),
        ("POST", f"/v1/problems/{uuid4()}/cancel"),
        ("GET", f"/v1/batches/{uuid4()}"),
    ],
)
def test_without_a_database_every_answer_says_when_to_try_again(dead_api: TestClient, method: str, path: str) -> None:
    response = dead_api.request(method, path, json=QUESTION if path == "/v1/problems" and method == "POST" else None)
    is_refusal(response, 503, "database_unavailable")
    assert int(response.headers["retry-after"]) > 0


def test_an_unknown_path_and_method_are_refused_like_everything_else(api: TestClient) -> None:
    assert is_refusal(api.get("/v2/problems"), 404, api.get("/v2/problems").json()["code"])
    response = api.delete("/v1/problems")
    is_refusal(response, 405, "method_not_allowed")
    assert response.headers["allow"]


def test_a_crash_is_answered_without_its_trace(app: FastAPI, database: Database) -> None:
    broken = create_app(SETTINGS, database)

    @broken.get("/crash")
    def crash() -> None:
        raise ZeroDivisionError("secret words")

    response = TestClient(broken, raise_server_exceptions=False).get("/crash", headers={"X-Request-ID": "mine-1"})
    body = is_refusal(response, 500, "internal")
    assert body["request_id"] == "mine-1"
    assert "secret words" not in response.text


@pytest.mark.parametrize("given", ["mine-1.a_B", "x" * 64])
def test_a_sane_request_id_is_kept(api: TestClient, given: str) -> None:
    for path in ("/health/live", "/nowhere"):
        assert api.get(path, headers={"X-Request-ID": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "two words", "<script>", "caf\u00e9"])
def test_any_other_request_id_is_replaced(api: TestClient, given: str) -> None:
    answered = api.get("/nowhere", headers={"X-Request-ID": given.encode("latin-1")})
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", answered.json()["request_id"])
    assert answered.headers["x-request-id"] != given
