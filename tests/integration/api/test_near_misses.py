"""Requests that are almost right: each is served as it is meant, or refused with an error that names what is wrong."""

from __future__ import annotations

import gzip
import json
from typing import Any
from uuid import UUID

import httpx2
import pytest
from starlette.testclient import TestClient

from shared.store.cursors import make_cursor
from tests.integration.api.calls import JSON, QUESTION, is_refusal, submit, submit_batch

pytestmark = pytest.mark.servers

UNKNOWN = f"/v1/problems/{UUID(int=1)}"
LISTINGS = ["/v1/problems", "/v1/policies/pomdp/versions"]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/v1/problems?statuss=failed", "query.statuss: There is no such parameter; did you mean `status`?"),
        ("/v1/problems?Status=failed", "query.Status: There is no such parameter; did you mean `status`?"),
        ("/v1/problems?offset=1", "`cursor`"),
        ("/v1/problems?batch-id=1", "did you mean `batch_id`?"),
        (f"{UNKNOWN}?wait=1", "did you mean `wait_s`?"),
        (f"{UNKNOWN}/steps?limt=1", "did you mean `limit`?"),
        ("/v1/policies?limit=1", "query.limit: There is no such parameter; none is allowed here."),
        ("/v1/policies/pomdp/versions?default=true", "did you mean `is_default`?"),
        ("/v1/problems?=1", "query.: There is no such parameter"),
        ("/v1/problems?%00=1", "There is no such parameter"),
        ("/v1/problems?%ff=1", "There is no such parameter"),
        (f"/v1/problems?{'x' * 5000}=1", "There is no such parameter"),
        ("/v1/problems?limit=1&limit=2", "query.limit: The parameter is given 2 times; give it once."),
        ("/v1/problems?limit=1&limit=1", "given 2 times"),
        ("/v1/problems?limit=0", "query.limit: Input should be greater than or equal to 1."),
        ("/v1/problems?limit=201", "query.limit: Input should be less than or equal to 200."),
        ("/v1/problems?limit=-1", "query.limit"),
        ("/v1/problems?limit=", "query.limit"),
        ("/v1/problems?limit=1e2", "query.limit"),
        (f"/v1/problems?limit={'9' * 5000}", "query.limit"),
        ("/v1/problems?limit=NaN", "query.limit"),
        (f"{UNKNOWN}?wait_s=NaN", "query.wait_s"),
        (f"{UNKNOWN}?wait_s=Infinity", "query.wait_s"),
        (f"{UNKNOWN}?wait_s=-1", "query.wait_s"),
        ("/v1/problems?status=FAILED", "query.status.0: Input should be 'queued', 'running'"),
        ("/v1/problems?status=", "query.status"),
        ("/v1/problems?policy=%00", "query.policy"),
        ("/v1/problems?batch_id=none", "query.batch_id"),
        ("/v1/problems/%00", "path.problem_id"),
        ("/v1/problems/%ff", "path.problem_id"),
        ("/v1/problems/1", "path.problem_id"),
        (f"/v1/problems/{'0' * 5000}", "path.problem_id"),
        ("/v1/policies/pomdp/versions/0", "path.version"),
        ("/v1/policies/pomdp/versions/99999999999", "path.version"),
        ("/v1/policies/POMDP/versions", "path.name"),
    ],
)
def test_a_wrong_parameter_is_refused_by_its_name(api: TestClient, path: str, sentence: str) -> None:
    assert sentence in is_refusal(api.get(path), 422, "invalid_request")["detail"]


@pytest.mark.parametrize("path", LISTINGS)
@pytest.mark.parametrize(
    "cursor",
    ["x", "%00", "=", "bnVsbA==", "W10=", make_cursor("another", "a"), make_cursor("problems"), "%F0%9F%A7%AE", "e30="],
)
def test_a_cursor_of_no_listing_or_another_one_is_refused(api: TestClient, path: str, cursor: str) -> None:
    is_refusal(api.get(f"{path}?cursor={cursor}"), 422, "bad_cursor")


def test_a_cursor_of_another_batch_is_refused(api: TestClient) -> None:
    first, second = (submit_batch(api, 2)["links"]["problems"] for _ in range(2))
    cursor = api.get(f"{first}?limit=1").json()["next_cursor"]
    assert api.get(f"{first}?limit=1&cursor={cursor}").status_code == 200
    is_refusal(api.get(f"{second}?limit=1&cursor={cursor}"), 422, "bad_cursor")
    is_refusal(api.get(f"/v1/problems?cursor={cursor}"), 422, "bad_cursor")


@pytest.mark.parametrize(
    "path",
    ["/v1/problems/", "//v1/problems", "/v1//problems", "/V1/problems", "/v1/problems;x=1", "/v1/problem", "/v1", "/",
     "/v1/problems/../problems/", f"{UNKNOWN}/steps/", "/v1/problems%2F", "/openapi.json/", f"/{'x' * 20_000}"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_that_is_almost_right_is_no_path(api: TestClient, method: str, path: str) -> None:
    url = httpx2.URL("http://testserver").copy_with(raw_path=path.encode())
    is_refusal(api.request(method, url, follow_redirects=False), 404, "no_such_path")


def test_every_way_to_write_a_uuid_finds_the_problem(api: TestClient) -> None:
    made = submit(api)["id"]
    for written in (made.upper(), made.replace("-", ""), f"urn:uuid:{made}", f"%7B{made}%7D"):
        assert api.get(f"/v1/problems/{written}").json()["id"] == made


@pytest.mark.parametrize("keys", [["a b"], [""], ["a", "a"], ["a", "b"], ["x" * 201], ["\t"], ["a,b c"]])
@pytest.mark.parametrize(("path", "body"), [("/v1/problems", QUESTION), ("/v1/batches", {"problems": [QUESTION]})])
def test_a_key_that_is_no_key_or_given_twice_is_refused(
    api: TestClient, path: str, body: dict[str, Any], keys: list[str]
) -> None:
    response = api.post(path, json=body, headers=[("Idempotency-Key", key) for key in keys])
    refused = is_refusal(response, 422, "invalid_request")
    assert [each["field"] for each in refused["errors"]] == ["header.Idempotency-Key"]


@pytest.mark.parametrize(
    ("field", "nearest"),
    [
        ({"questoin": "x"}, "body.questoin: There is no such field; did you mean `question`?"),
        ({"Reference": "x"}, "did you mean `reference`?"),
        ({"limits": {"max_step": 1}}, "body.limits.max_step: There is no such field; did you mean `max_steps`?"),
        ({"sampling": {"temprature": 1}}, "did you mean `temperature`?"),
        ({"policy": {"params": {}}}, "body.policy.params: There is no such field; did you mean `parameters`?"),
        ({"policy": {"wrappers": {"takeover": True}}}, "did you mean `take_over`?"),
        ({"shadows": [{"nam": "random"}]}, "body.shadows.0.nam: There is no such field; did you mean `name`?"),
        ({"policy": {"parameters": {"treshold": 0.5}}}, "did you mean `threshold`?"),
        ({"policy": {"parameters": {"xyz": 0.5}}}, "the names are `threshold`, `thought_threshold`."),
        ({"problems": []}, "body.problems: There is no such field"),
        ({"limits": {"zzz": 1}}, "the names are `max_steps`, `max_step_tokens`, `max_tokens`."),
    ],
)
def test_a_misspelt_field_is_refused_with_the_nearest_one(api: TestClient, field: dict[str, Any], nearest: str) -> None:
    for path, body, place in (
        ("/v1/problems", QUESTION | field, "body."),
        ("/v1/batches", {"problems": [QUESTION | field]}, "body.problems.0."),
    ):
        response = api.post(path, json=body)
        assert response.status_code == 422
        assert nearest.replace("body.", place) in response.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "body", "code", "sentence"),
    [
        ({"Content-Encoding": "gzip"}, gzip.compress(b"{}", mtime=0), "unsupported_content_encoding", "compressed"),
        ({"Content-Encoding": "gzip"}, json.dumps(QUESTION).encode(), "unsupported_content_encoding", "as it is"),
        ({"Content-Encoding": "br, gzip"}, b"{}", "unsupported_content_encoding", "compressed"),
        ({}, gzip.compress(b"{}", mtime=0), "malformed_body", "not in UTF-8"),
        ({}, b"", "malformed_body", "empty"),
        ({}, b"[" * 1_000 + b"]" * 1_000, "malformed_json", "inside each other"),
        ({}, b'{"question": "a", "question": "b"}', "malformed_json", "'question' twice"),
        ({}, b'{"question": "What?", "lookahead": ' + b"9" * 5_000 + b"}", "malformed_json", "5000 digits"),
        ({}, b'{"question": "What?", "lookahead": ' + b"9" * 1_000 + b"}", "invalid_request", "body.lookahead"),
        ({}, b'{"question": "What?", "lookahead": 0.5}', "invalid_request", "body.lookahead"),
        ({}, b'{"question": "What?", "lookahead": "0"}', "invalid_request", "body.lookahead"),
        ({}, b'{"question": "What?", "lookahead": NaN}', "invalid_request", "body.lookahead"),
        ({}, b'{"question": "What?", "lookahead": true}', "invalid_request", "body.lookahead"),
        ({}, b'{"question": "What?", "reference": true}', "invalid_request", "a text or a number"),
        ({}, b'{"question": "What?", "sampling": {"temperature": 1e999}}', "invalid_request", "finite"),
        ({}, b'{"question": 42}', "invalid_request", "body.question"),
        ({}, b'[{"question": "What?"}]', "invalid_request", "body: Input should be"),
        ({"Content-Type": "text/plain"}, json.dumps(QUESTION).encode(), "unsupported_media_type", "content-type"),
    ],
)
def test_a_body_that_is_almost_right_is_refused_with_a_true_sentence(
    api: TestClient, headers: dict[str, str], body: bytes, code: str, sentence: str
) -> None:
    response = api.post("/v1/problems", content=body, headers=JSON | headers)
    status = {"malformed": 400, "unsupported": 415, "invalid": 422}[code.partition("_")[0]]
    assert sentence in is_refusal(response, status, code)["detail"]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Encoding": "identity"}, json.dumps(QUESTION).encode()),
        ({}, b"\xef\xbb\xbf" + json.dumps(QUESTION).encode()),
        ({}, b'\n {"question": "What?", "lookahead": 2.0, "limits": {"max_steps": 1e1}}\n'),
        ({"Idempotency-Key": "!~"}, json.dumps(QUESTION).encode()),
        ({"Accept": "text/html"}, json.dumps(QUESTION).encode()),
    ],
)
def test_a_body_that_means_something_is_served(api: TestClient, headers: dict[str, str], body: bytes) -> None:
    assert api.post("/v1/problems", content=body, headers=JSON | headers).status_code == 201


def test_a_refusal_of_compression_names_what_is_accepted(api: TestClient) -> None:
    response = api.post(
        "/v1/problems", content=gzip.compress(b"{}", mtime=0), headers=JSON | {"Content-Encoding": "gzip"}
    )
    assert response.headers["accept-encoding"] == "identity"


def test_two_content_types_are_not_json(api: TestClient) -> None:
    headers = [("Content-Type", "application/json"), ("Content-Type", "text/plain")]
    is_refusal(api.post("/v1/problems", content=b"{}", headers=headers), 415, "unsupported_media_type")
