"""Refused requests: every response is problem+json with the next step."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from uuid import UUID

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from starlette.types import Message
from structlog.testing import capture_logs

from services.api.app import create_app
from services.api.errors import CLIENT_GONE, MAX_FIELD_CHARS, MAX_LISTED
from shared.store.database import Database
from tests.integration.api.calls import JSON, QUESTION, SETTINGS, is_refusal, submit

pytestmark = pytest.mark.servers


UNKNOWN = UUID(int=1)
"""Id that no problem and no batch has; the same in all processes that collect the tests."""


@pytest.mark.parametrize(
    "body", [b"{", b"", b"[]", b"null", b'"text"', b'{"question": "a" "b"}', b"[" * 50_000, b"9" * 5_000]
)
def test_a_body_that_is_not_a_json_object_is_refused(api: TestClient, body: bytes) -> None:
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
        "application/jsonx",
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
def test_another_content_type_is_refused_with_the_header_to_send(
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
def test_every_content_type_of_json_is_accepted(api: TestClient, content_type: str) -> None:
    response = api.post("/v1/problems", content=json.dumps(QUESTION), headers={"Content-Type": content_type})
    assert response.status_code == 201, response.text


def test_a_request_without_a_body_needs_no_content_type(api: TestClient) -> None:
    made = submit(api)
    for headers in ({}, {"Content-Type": "text/plain"}):
        assert api.post(made["links"]["cancel"], headers=headers).status_code == 202


def test_a_body_over_the_limit_is_refused_by_its_content_length(api: TestClient) -> None:
    body = json.dumps({"question": "x" * SETTINGS.max_body_bytes})
    is_refusal(api.post("/v1/problems", content=body, headers=JSON), 413, "body_too_large")


def test_a_body_over_the_limit_is_refused_without_a_content_length(api: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 10_000

    is_refusal(api.post("/v1/problems", content=pieces(), headers=JSON), 413, "body_too_large")


@pytest.mark.parametrize("path", ["/v1/policies", "/nowhere", "/v1/problems"])
def test_a_body_over_the_limit_on_a_route_without_body_gets_no_plain_text(api: TestClient, path: str) -> None:
    response = api.request("GET", path, content=b"x" * (SETTINGS.max_body_bytes + 1))
    assert response.status_code in (200, 404, 413)
    assert "json" in response.headers["content-type"]
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/problems"),
        ("POST", "/v1/batches"),
        ("GET", "/v1/problems"),
        ("GET", f"/v1/problems/{UNKNOWN}"),
        ("GET", f"/v1/problems/{UNKNOWN}?wait_s=5"),
        ("GET", f"/v1/problems/{UNKNOWN}/steps"),
        ("GET", f"/v1/problems/{UNKNOWN}/decisions"),
        ("GET", f"/v1/problems/{UNKNOWN}/audit"),
        ("POST", f"/v1/problems/{UNKNOWN}/cancel"),
        ("GET", f"/v1/batches/{UNKNOWN}"),
        ("GET", f"/v1/batches/{UNKNOWN}/problems"),
    ],
)
def test_without_a_database_every_response_names_the_time_to_retry(
    dead_api: TestClient, method: str, path: str
) -> None:
    body = {"/v1/problems": QUESTION, "/v1/batches": {"problems": [QUESTION]}}.get(path) if method == "POST" else None
    with capture_logs() as logged:
        response = dead_api.request(method, path, json=body)
    is_refusal(response, 503, "database_unavailable")
    assert int(response.headers["retry-after"]) > 0
    [line] = [each for each in logged if each["event"] == "request_unserved"]
    assert (line["log_level"], line["code"]) == ("warning", "database_unavailable")
    assert "TRIM_DATABASE_URL" in line["detail"]


def test_an_unknown_path_and_method_are_refused_with_problem_details(api: TestClient) -> None:
    is_refusal(api.get("/v2/problems"), 404, "no_such_path")
    response = api.delete("/v1/problems")
    is_refusal(response, 405, "method_not_allowed")
    assert response.headers["allow"]


def test_a_crash_is_reported_without_its_message_or_trace(app: FastAPI, database: Database) -> None:
    broken = create_app(SETTINGS, database)

    @broken.get("/crash")
    def crash() -> None:
        raise ZeroDivisionError("secret words")

    response = TestClient(broken, raise_server_exceptions=False).get("/crash", headers={"X-Request-ID": "mine-1"})
    body = is_refusal(response, 500, "internal")
    assert body["request_id"] == "mine-1"
    assert "secret words" not in response.text


def test_a_client_that_hangs_up_within_its_body_is_no_crash(app: FastAPI) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", b"50")]
    scope = {"type": "http", "method": "POST", "path": "/v1/problems", "query_string": b"", "headers": headers}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == CLIENT_GONE


@pytest.mark.parametrize("given", ["mine-1.a_B", "x" * 64])
def test_a_well_formed_request_id_is_kept(api: TestClient, given: str) -> None:
    for path in ("/health/live", "/nowhere"):
        assert api.get(path, headers={"X-Request-ID": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "two words", "<script>", "caf\u00e9"])
def test_any_other_request_id_is_replaced(api: TestClient, given: str) -> None:
    answered = api.get("/nowhere", headers={"X-Request-ID": given.encode("latin-1")})
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", answered.json()["request_id"])
    assert answered.headers["x-request-id"] != given


def test_the_detail_names_the_first_wrong_field_and_counts_the_others(api: TestClient) -> None:
    response = api.post("/v1/problems", json={"question": "", "lookahead": -1, "max_attempts": 0})
    refused = is_refusal(response, 422, "invalid_request")
    assert refused["detail"] == "body.lookahead: " + refused["errors"][0]["message"] + " 2 more fields are wrong."
    assert [each["field"] for each in refused["errors"]] == ["body.lookahead", "body.max_attempts", "body.question"]


def test_a_response_lists_a_limited_number_of_wrong_fields_with_limited_names(api: TestClient) -> None:
    wrong = {f"{index:03}{'x' * 1000}": 1 for index in range(50)}
    refused = is_refusal(api.post("/v1/problems", json=QUESTION | wrong), 422, "invalid_request")
    assert len(refused["errors"]) == MAX_LISTED
    assert all(len(each["field"]) <= MAX_FIELD_CHARS for each in refused["errors"])


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (QUESTION | {"policy": {"name": "dice"}}, "body.policy: There is no policy 'dice'"),
        ({"question": "x" * 501}, "body.question: The question has 501 characters; the maximum is 500."),
        ({"question": " "}, "body.question: Input should not be blank."),
        ({"question": "a\x00b"}, "body.question: Input should not contain NUL characters"),
    ],
)
def test_the_field_and_the_detail_agree_for_every_kind_of_check(
    api: TestClient, body: dict[str, object], detail: str
) -> None:
    for path, sent, place in (
        ("/v1/problems", body, "body"),
        ("/v1/batches", {"problems": [QUESTION, body]}, "body.problems.1"),
    ):
        response = api.post(path, json=sent)
        refused = is_refusal(response, 422, response.json()["code"])
        (wrong,) = refused["errors"]
        assert refused["detail"].startswith(detail.replace("body", place, 1))
        assert refused["detail"] == f"{wrong['field']}: {wrong['message']}"
        assert refused["detail"].endswith(".")
        assert not refused["detail"].endswith("..")
