"""Problems submitted one by one: JSON Lines, arrays, and what becomes of wrong ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from starlette.testclient import TestClient

from services.api import intake
from services.api.app import create_app
from shared.store.database import Database
from tests.integration.api.calls import QUESTION, SETTINGS, is_refusal, read_pages, wrong_fields
from tests.integration.api.conftest import checked_client

pytestmark = pytest.mark.servers

LINES = {"Content-Type": "application/jsonl"}
WRONG = [
    b'{"question": "What?", "lookahead": -1}',
    b'{"question": ',
    b"7",
    b'{"question": "What?", "policy": {"name": "dice"}}',
    b'{"question": "What?", "questoin": "What?"}',
    b'{"question": "' + b"x" * 501 + b'"}',
    b'{"question": "\xff"}',
    b'{"question": "What?", "question": "What else?"}',
]


def line(number: int, **fields: Any) -> bytes:
    return json.dumps({"question": f"What is {number} plus 1?", **fields}).encode()


def send(api: TestClient, *lines: bytes, query: str = "", **headers: str) -> httpx2.Response:
    return api.post(f"/v1/batches{query}", content=b"\n".join(lines), headers=LINES | headers)


def count_rows(database: Database) -> tuple[int, int]:
    with database.session() as session:
        counted = session.execute(text("SELECT (SELECT count(*) FROM problems), (SELECT count(*) FROM batches)")).one()
    return counted[0], counted[1]


@pytest.fixture
def patient_api(database: Database) -> TestClient:
    """The API with a smaller limit on bodies than a stream of these tests has."""
    settings = SETTINGS.model_copy(update={"max_body_bytes": 600, "max_stream_lines": 50, "max_stream_bytes": 9_000})
    return checked_client(create_app(settings, database))


@pytest.mark.parametrize("content_type", ["application/jsonl", "application/x-ndjson; charset=utf-8"])
def test_each_line_becomes_a_problem_in_the_order_of_the_file(api: TestClient, content_type: str) -> None:
    body = b"\xef\xbb\xbf" + line(0) + b"\r\n\r\n" + line(1, reference=2, lookahead=3) + b"\n  \n" + line(2)
    response = api.post("/v1/batches", content=body, headers={"Content-Type": content_type})
    made = response.json()
    assert response.status_code == 201, response.text
    assert (made["received"], made["accepted"], made["rejected"], made["errors"]) == (3, 3, 0, [])
    assert response.headers["location"] == made["links"]["self"]
    found = read_pages(api, made["links"]["problems"])
    assert [each["id"] for each in found] == made["problem_ids"]
    assert [each["question"] for each in found] == [f"What is {number} plus 1?" for number in range(3)]
    assert [each["lookahead"] for each in found] == [0, 3, 0]
    assert [each["reference"] for each in found] == [None, "2", None]
    assert [each["batch_index"] for each in found] == [0, 1, 2]


def test_a_stream_may_be_larger_than_a_body_and_arrive_in_pieces(patient_api: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        for number in range(40):
            written = line(number) + b"\n"
            yield written[:7]
            yield written[7:]

    response = patient_api.post("/v1/batches", content=pieces(), headers=LINES)
    assert (response.status_code, response.json()["size"]) == (201, 40)
    assert sum(len(each) for each in pieces()) > 600
    assert len(read_pages(patient_api, response.json()["links"]["problems"])) == 40


def test_more_problems_than_a_document_may_have_are_listed_by_the_batch_alone(api: TestClient) -> None:
    made = send(api, *map(line, range(SETTINGS.max_batch_size + 1))).json()
    assert (made["problem_ids"], made["size"]) == (None, SETTINGS.max_batch_size + 1)
    assert len(read_pages(api, made["links"]["problems"])) == made["size"]


def test_problems_are_kept_in_a_file_and_stored_in_portions(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_IN_MEMORY_BYTES", 10)
    monkeypatch.setattr("shared.store.submissions.PORTION", 2)
    made = send(api, *map(line, range(5))).json()
    found = read_pages(api, made["links"]["problems"])
    assert [each["question"] for each in found] == [f"What is {number} plus 1?" for number in range(5)]


def test_wrong_lines_are_skipped_and_listed_with_their_numbers(api: TestClient) -> None:
    lines = [each for wrong in WRONG for each in (wrong, b"", line(1))]
    made = send(api, *lines).json()
    assert (made["received"], made["accepted"], made["rejected"]) == (16, 8, 8)
    assert [each["line"] for each in made["errors"]] == [1 + 3 * place for place in range(8)]
    assert [each["index"] for each in made["errors"]] == [2 * place for place in range(8)]
    assert [(each["field"], each["code"]) for each in made["errors"]] == [
        ("lookahead", "invalid_request"),
        ("", "malformed_json"),
        ("", "invalid_request"),
        ("policy", "unknown_policy"),
        ("questoin", "invalid_request"),
        ("question", "invalid_request"),
        ("", "malformed_body"),
        ("", "malformed_json"),
    ]
    assert "did you mean `question`?" in made["errors"][4]["message"]
    assert all(each["message"].endswith((".", "?")) for each in made["errors"])
    assert not any("body" in each["message"] for each in made["errors"])
    assert [each["batch_index"] for each in read_pages(api, made["links"]["problems"])] == list(range(8))


def test_one_wrong_line_refuses_a_file_if_the_client_wants_that(api: TestClient, database: Database) -> None:
    before = count_rows(database)
    response = send(api, line(0), WRONG[0], line(2), WRONG[1], query="?on_error=reject")
    body = is_refusal(response, 422, "invalid_request")
    assert [(each["field"], each["line"]) for each in body["errors"]] == [("line 2.lookahead", 2), ("line 4", 4)]
    assert "none was stored" in body["detail"]
    assert count_rows(database) == before


@pytest.mark.parametrize("lines", [[WRONG[0], WRONG[1]], [], [b"", b" \r"]])
def test_a_file_without_a_right_line_is_refused(api: TestClient, database: Database, lines: list[bytes]) -> None:
    before = count_rows(database)
    is_refusal(send(api, *lines), 422, "invalid_request")
    assert count_rows(database) == before


def test_the_listed_errors_are_bounded_and_the_count_is_not(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_REJECTED", 3)
    made = send(api, line(0), *[WRONG[0]] * 7).json()
    assert (made["rejected"], len(made["errors"])) == (7, 3)
    refused = is_refusal(send(api, line(0), *[WRONG[0]] * 7, query="?on_error=reject"), 422, "invalid_request")
    assert "7 of 8 problems are wrong" in refused["detail"]


def test_a_line_that_is_too_long_is_skipped(patient_api: TestClient) -> None:
    made = send(patient_api, line(0), line(1, reference="x" * 600), line(2)).json()
    assert [(each["line"], each["code"]) for each in made["errors"]] == [(2, "line_too_long")]
    assert made["accepted"] == 2


@pytest.mark.parametrize(
    ("count", "padding", "status", "code"), [(51, 0, 422, "batch_too_large"), (40, 300, 413, "body_too_large")]
)
def test_a_stream_with_too_much_in_it_is_refused(  # noqa: PLR0917 - pytest passes arguments by name
    patient_api: TestClient, database: Database, count: int, padding: int, status: int, code: str
) -> None:
    before = count_rows(database)
    is_refusal(send(patient_api, *(line(each) + b" " * padding for each in range(count))), status, code)
    assert count_rows(database) == before


def test_an_array_stands_for_a_batch_of_its_problems(api: TestClient, database: Database) -> None:
    problems = [QUESTION, QUESTION | {"lookahead": 2}]
    response = api.post("/v1/batches", json=problems)
    assert (response.status_code, response.json()["received"], response.json()["rejected"]) == (201, 2, 0)
    before = count_rows(database)
    assert wrong_fields(api.post("/v1/batches", json=[QUESTION, {"question": ""}])) == "body.problems.1.question"
    assert wrong_fields(api.post("/v1/batches", json=[])) == "body.problems"
    assert "problems" in wrong_fields(api.post("/v1/batches", json=[QUESTION] * 6), "batch_too_large")
    assert count_rows(database) == before


@pytest.mark.parametrize("as_object", [True, False])
def test_wrong_problems_of_a_document_are_skipped_if_the_client_wants_that(api: TestClient, as_object: bool) -> None:
    problems: list[Any] = [QUESTION, {"question": ""}, QUESTION | {"max_attempts": 3}, "no object"]
    body = {"problems": problems, "defaults": {"lookahead": 2}} if as_object else problems
    query = "?on_error=skip" + ("" if as_object else '&defaults={"lookahead": 2}')
    response = api.post(f"/v1/batches{query}", json=body)
    made = response.json()
    assert response.status_code == 201, response.text
    assert (made["received"], made["accepted"], made["rejected"]) == (4, 2, 2)
    assert [(each["line"], each["index"], each["field"]) for each in made["errors"]] == [
        (None, 1, "question"), (None, 3, ""),
    ]  # fmt: skip
    found = read_pages(api, made["links"]["problems"])
    assert [(each["lookahead"], each["max_attempts"]) for each in found] == [(2, 5), (2, 3)]
    assert "body.defaults.lookahead" in wrong_fields(
        api.post("/v1/batches?on_error=skip", json={"problems": problems, "defaults": {"lookahead": -1}})
    )
    assert "problems" in wrong_fields(api.post("/v1/batches?on_error=skip", json=[QUESTION] * 6), "batch_too_large")


@pytest.mark.parametrize("content_type", ["application/jsonl", "application/json"])
def test_defaults_of_the_query_complete_the_problems(api: TestClient, content_type: str) -> None:
    defaults = json.dumps({"policy": {"name": "random", "parameters": {"p": 0.25}}, "limits": {"max_steps": 5}})
    body = line(0, limits={"max_tokens": 100})
    content = body if content_type == "application/jsonl" else b"[" + body + b"]"
    response = api.post(
        "/v1/batches", params={"defaults": defaults}, content=content, headers={"Content-Type": content_type}
    )
    [found] = read_pages(api, response.json()["links"]["problems"])
    assert (found["policy"]["name"], found["policy"]["parameters"]["p"]) == ("random", 0.25)
    assert (found["limits"]["max_steps"], found["limits"]["max_tokens"]) == (5, 100)


@pytest.mark.parametrize(
    ("defaults", "named"),
    [
        ("{", "query.defaults"),
        ("[]", "query.defaults"),
        ('{"lookahead": -1}', "query.defaults.lookahead"),
        ('{"question": "What?"}', "query.defaults.question"),
        ('{"policy": {}, "split": [{"name": "a", "policy": {}}, {"name": "b", "policy": {}}]}', "query.defaults.split"),
    ],
)
@pytest.mark.parametrize("on_error", ["reject", "skip"])
def test_wrong_defaults_of_the_query_are_named(api: TestClient, defaults: str, named: str, on_error: str) -> None:
    query = {"defaults": defaults, "on_error": on_error}
    assert wrong_fields(api.post("/v1/batches", params=query, content=line(0), headers=LINES)) == named
    if "split" not in named:
        assert wrong_fields(api.post("/v1/batches", params=query, json=[QUESTION])) == named


def test_an_object_has_its_own_defaults(api: TestClient) -> None:
    assert wrong_fields(api.post("/v1/batches?defaults={}", json={"problems": [QUESTION]})) == "query.defaults"


@pytest.mark.parametrize("query", ["on_error=ignore", "on_eror=skip", "on_error=skip&on_error=skip"])
def test_a_wrong_parameter_of_a_stream_is_refused(api: TestClient, query: str) -> None:
    assert query.partition("=")[0] in wrong_fields(send(api, line(0), query=f"?{query}"))


def test_a_compressed_stream_is_refused(api: TestClient) -> None:
    is_refusal(send(api, line(0), **{"Content-Encoding": "gzip"}), 415, "unsupported_content_encoding")


def test_json_lines_elsewhere_are_no_json(api: TestClient) -> None:
    response = api.post("/v1/problems", content=line(0), headers=LINES)
    is_refusal(response, 415, "unsupported_media_type")


def test_a_repeated_stream_returns_the_first_batch_however_it_is_sent(api: TestClient, database: Database) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    problems = [{"question": "One?"}, {"question": "Two?", "lookahead": 0, "sampling": {"temperature": 0.7}}]
    first = api.post("/v1/batches", json={"problems": problems}, headers=key)
    before = count_rows(database)
    again = send(api, b'{ "question":"One?" }', b"", b'{"sampling": {}, "question": "Two?"}', **key)
    as_array = api.post("/v1/batches?on_error=skip", json=problems, headers=key)
    assert [each.status_code for each in (first, again, as_array)] == [201, 200, 200]
    assert again.json() == as_array.json() == first.json()
    assert count_rows(database) == before
    is_refusal(send(api, b'{"question": "One?"}', **key), 409, "idempotency_conflict")
    is_refusal(send(api, b'{"question": "One?"}', b"7", b'{"question": "Two?"}', **key), 409, "idempotency_conflict")


def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(
    app: FastAPI, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[intake.Spool] = []
    close = intake.Spool.close
    monkeypatch.setattr(intake.Spool, "close", lambda spool: (closed.append(spool), close(spool)))
    before = count_rows(database)

    async def leave() -> list[dict[str, Any]]:
        messages = iter(
            [
                {"type": "http.request", "body": line(0) + b"\n" + line(1)[:5], "more_body": True},
                {"type": "http.disconnect"},
            ]
        )
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return next(messages)

        async def keep(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/v1/batches",
            "raw_path": b"/v1/batches", "query_string": b"", "root_path": "", "scheme": "http", "server": ("api", 80),
            "client": ("client", 1), "headers": [(b"content-type", b"application/jsonl")],
        }  # fmt: skip
        await app(scope, receive, keep)
        return sent

    asyncio.run(leave())
    assert len(closed) == 1
    assert count_rows(database) == before


def test_a_stream_that_finds_no_room_is_refused_for_now(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("services.api.intake.gzip.GzipFile.write", fail)
    response = send(api, line(0))
    is_refusal(response, 503, "stream_not_kept")
    assert response.headers["retry-after"]


def test_a_stream_without_a_database_is_refused_after_its_end(dead_api: TestClient) -> None:
    is_refusal(send(dead_api, line(0)), 503, "database_unavailable")
