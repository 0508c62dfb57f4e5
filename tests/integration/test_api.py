"""The REST API on a real database: what it takes, what it refuses and how it says so."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import insert, text, update
from starlette.testclient import TestClient

from services.api.app import create_app
from shared.domain.values import Ledger, Limits, Options, Sampling, Status
from shared.policies.registry import POLICIES
from shared.settings import Settings
from shared.store.admission import SeenProcess, record_processes
from shared.store.database import Database
from shared.store.schema import REVISION
from shared.store.tables import DecisionRow, Problem, Process, StepRow
from stack.scratch import scratch_database

pytestmark = pytest.mark.servers

SETTINGS = Settings(max_body_bytes=100_000, max_question_chars=500, max_batch_size=5, heartbeat_s=5)
QUESTION = {"question": "What is 6 times 7?"}
JSON = {"Content-Type": "application/json"}
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def database(postgres_server: str) -> Iterator[Database]:
    """One database for all tests here: none looks at more than it made itself."""
    with scratch_database(postgres_server) as url, closing(Database(url)) as made:
        yield made


@pytest.fixture(scope="module")
def app(database: Database) -> FastAPI:
    return create_app(SETTINGS, database)


@pytest.fixture
def api(app: FastAPI) -> TestClient:
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def dead_api() -> Iterator[TestClient]:
    """The API of a database that nobody serves."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql://postgres@127.0.0.1:{taken.getsockname()[1]}/trim"
        with closing(Database(url)) as made:
            yield TestClient(create_app(SETTINGS, made), raise_server_exceptions=False)


def submit(api: TestClient, **fields_: Any) -> dict[str, Any]:
    response = api.post("/v1/problems", json=QUESTION | fields_)
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


def submit_batch(api: TestClient, count: int, **defaults: Any) -> dict[str, Any]:
    problems = [{"question": f"What is {index} plus 1?"} for index in range(count)]
    response = api.post("/v1/batches", json={"problems": problems, "defaults": defaults})
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


def change(database: Database, problem_id: str, **values: Any) -> None:
    """Do to a problem's row what an orchestrator would."""
    with database.session() as session:
        session.execute(update(Problem).where(Problem.id == UUID(problem_id)).values(**values))


def add_step(database: Database, problem_id: str, step: int, *, author: str = "small") -> None:
    """Add a step and its decision, every column filled."""
    now = datetime.now(UTC)
    escalated = author == "large"
    with database.session() as session:
        session.execute(
            insert(StepRow).values(
                problem_id=UUID(problem_id), step=step, author=author, text=f"Step {step}.", finish="separator",
                tokens=4, score=0.75, model=f"{author}-model", worker=f"{author}-0", waited_ms=1.5, worked_ms=20.25,
                accepted_at=now,
            )
        )  # fmt: skip
        session.execute(
            insert(DecisionRow).values(
                problem_id=UUID(problem_id), step=step, epoch=0, decided_at=now,
                action="escalate" if escalated else "accept",
                reason="score_below_threshold" if escalated else "score_at_least_threshold", value=0.25, against=0.5,
                score=0.25, previous_scores=[0.5] * step, is_final=False, large_tokens=3, seed=2**53,
                draft_id=uuid4(), draft_text=f"Draft {step}.", draft_finish="separator", draft_tokens=5,
                draft_prompt_tokens=11, draft_cached_tokens=6, draft_model="small-model", draft_worker="small-0",
                draft_waited_ms=0.5, draft_worked_ms=12.5, prm_model="prm-model", prm_worker="prm-0", prm_tokens=17,
                prm_waited_ms=0.25, prm_worked_ms=2.5,
            )
        )  # fmt: skip


def is_refusal(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is a complete problem+json, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/problem+json")
    body: dict[str, Any] = response.json()
    assert body["code"] == code, body
    assert body["status"] == status
    assert body["type"]
    assert body["title"]
    assert body["detail"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    return body


def wrong_fields(response: httpx2.Response, code: str = "invalid_request") -> str:
    """Name the fields that a submission was refused for."""
    return " ".join(error["field"] for error in is_refusal(response, 422, code)["errors"])


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that another thread or process does."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


# --- submitting -----------------------------------------------------------------------------------------------------


def test_a_problem_without_options_gets_the_defaults_of_the_domain(api: TestClient) -> None:
    response = api.post("/v1/problems", json=QUESTION)
    made = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"/v1/problems/{made['id']}" == made["links"]["self"]
    assert (made["status"], made["epoch"], made["steps"], made["escalated_steps"]) == ("queued", 0, 0, 0)
    assert made["policy"] == {"name": "threshold", "revision": 1, "parameters": {"threshold": 0.5}}
    assert made["lookahead"] == Options().lookahead
    assert made["limits"] == {each.name: getattr(Limits(), each.name) for each in fields(Limits)}
    assert {**made["sampling"], "seed": 0} == {each.name: getattr(Sampling(), each.name) for each in fields(Sampling)}
    assert made["step_timeout_s"] == Options().step_timeout_s
    assert made["max_attempts"] == Options().max_attempts
    assert made["deadline_at"] is None
    assert made["ledger"] == {each.name: 0 for each in fields(Ledger)}
    assert api.get(response.headers["location"]).json() == made


def test_every_option_is_stored_as_it_was_given(api: TestClient) -> None:
    given = {
        "reference": "42",
        "lookahead": "unlimited",
        "limits": {"max_steps": 200, "max_step_tokens": 8192, "max_tokens": 131_072},
        "sampling": {"temperature": 2.0, "top_p": 1.0, "top_k": 0, "seed": 2**53},
        "step_timeout_s": 0.1,
        "max_attempts": 20,
    }
    made = submit(api, **given, policy={"name": "random", "parameters": {"p": 0.25}}, deadline_s=3600)
    assert {name: made[name] for name in given} == given
    assert made["policy"] == {"name": "random", "revision": 1, "parameters": {"p": 0.25}}
    left = datetime.fromisoformat(made["deadline_at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)


def test_a_seed_that_is_not_given_is_drawn_once_and_recorded(api: TestClient) -> None:
    seeds = [submit(api)["sampling"]["seed"] for _ in range(3)]
    assert len(set(seeds)) == 3
    assert all(0 <= seed <= 2**53 for seed in seeds)


def test_a_submission_and_a_cancel_wake_the_orchestrators(api: TestClient, database: Database) -> None:
    with closing(database.listen()) as listening:
        made = submit(api)
        assert list(listening.notifies(timeout=PATIENCE_S, stop_after=1))
        api.post(f"/v1/problems/{made['id']}/cancel")
        assert list(listening.notifies(timeout=PATIENCE_S, stop_after=1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("question", ""),
        ("question", " \n\t"),
        ("question", "x" * 501),
        ("question", "a\x00b"),
        ("question", 5),
        ("question", None),
        ("reference", "a\x00b"),
        ("reference", "x" * 100_000),
        ("lookahead", -1),
        ("lookahead", 65),
        ("lookahead", 1.5),
        ("lookahead", "all"),
        ("limits", {"max_steps": 0}),
        ("limits", {"max_steps": 201}),
        ("limits", {"max_steps": -(10**30)}),
        ("limits", {"max_step_tokens": 8193}),
        ("limits", {"max_tokens": 131_073}),
        ("limits", {"max_words": 5}),
        ("sampling", {"temperature": -0.1}),
        ("sampling", {"temperature": 2.1}),
        ("sampling", {"top_p": 0}),
        ("sampling", {"top_p": 1.1}),
        ("sampling", {"top_k": 1001}),
        ("sampling", {"seed": -1}),
        ("sampling", {"seed": 2**53 + 1}),
        ("step_timeout_s", 0.05),
        ("step_timeout_s", 3601),
        ("max_attempts", 0),
        ("max_attempts", 21),
        ("deadline_s", 0),
        ("deadline_s", -1),
        ("deadline_s", 1e300),
        ("qestion", "a typing error"),
        ("policy", "threshold"),
    ],
)
def test_a_field_out_of_bounds_is_refused_by_its_name(api: TestClient, field: str, value: object) -> None:
    if value == "x" * 100_000:
        value = "x" * 10_000
    wrong = wrong_fields(api.post("/v1/problems", json=QUESTION | {field: value}))
    inner = next(iter(value)) if isinstance(value, dict) else ""
    assert field in wrong
    assert inner in wrong


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("place", ['"sampling": {"temperature": %s}', '"step_timeout_s": %s', '"deadline_s": %s'])
def test_a_number_that_is_not_finite_is_refused(api: TestClient, place: str, number: str) -> None:
    body = '{"question": "What?", ' + place % number + "}"
    response = api.post("/v1/problems", content=body, headers=JSON)
    assert wrong_fields(response)


def test_a_policy_that_does_not_exist_is_refused_with_those_that_do(api: TestClient) -> None:
    response = api.post("/v1/problems", json=QUESTION | {"policy": {"name": "dice"}})
    assert "policy" in wrong_fields(response, "unknown_policy")
    assert all(name in response.json()["detail"] for name in POLICIES)


@pytest.mark.parametrize("parameters", [{"threshold": 1.5}, {"treshold": 0.5}, {"threshold": "high"}])
def test_a_wrong_parameter_of_a_policy_is_refused_by_its_name(api: TestClient, parameters: dict[str, object]) -> None:
    policy = {"name": "threshold", "parameters": parameters}
    response = api.post("/v1/problems", json=QUESTION | {"policy": policy})
    assert "policy" in wrong_fields(response, "bad_policy_parameters")
    assert next(iter(parameters)) in response.json()["detail"]


def test_a_parameter_that_is_no_number_is_refused(api: TestClient) -> None:
    body = '{"question": "What?", "policy": {"name": "threshold", "parameters": {"threshold": NaN}}}'
    assert wrong_fields(api.post("/v1/problems", content=body, headers=JSON), "bad_policy_parameters")


@pytest.mark.parametrize(
    "body",
    [
        r'{"question": "half a pair: \ud83d"}',
        r'{"question": "What?", "half \ud83d": 1}',
        r'{"question": "What?", "policy": {"name": "half \ud83d"}}',
        r'{"question": "What?", "policy": {"name": "threshold", "parameters": {"half \ud83d": 1}}}',
        r'{"question": "What?", "policy": {"name": "nul \u0000"}}',
    ],
)
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(api: TestClient, body: str) -> None:
    response = api.post("/v1/problems", content=body, headers=JSON)
    assert response.status_code == 422, response.text
    is_refusal(response, 422, response.json()["code"])
    batch = api.post("/v1/batches", content=f'{{"problems": [{body}]}}', headers=JSON)
    assert batch.status_code == 422, batch.text
    assert any("problems.0" in error["field"] for error in batch.json()["errors"])


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


def test_a_body_that_is_not_sent_as_json_is_refused(api: TestClient) -> None:
    response = api.post("/v1/problems", content=b'{"question": "What?"}', headers={"Content-Type": "text/plain"})
    assert 400 <= response.status_code < 500
    is_refusal(response, response.status_code, response.json()["code"])


def test_text_in_any_script_comes_back_as_it_was_sent(api: TestClient) -> None:
    question = "¿Cuánto es 6×7? 六乘七 🧮\u2028 \\frac{1}{2}\r\n<script>"
    assert submit(api, question=question)["question"] == question


# --- limits of a request --------------------------------------------------------------------------------------------


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


# --- idempotency ----------------------------------------------------------------------------------------------------


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


def test_a_second_submission_waits_for_the_first_ones_commit(app: FastAPI, api: TestClient, database: Database) -> None:
    """The first transaction is open when the second request comes: no look before the insert could see it."""
    key = {"Idempotency-Key": uuid4().hex}
    first = api.post("/v1/problems", json=QUESTION, headers=key).json()
    copy_key = uuid4().hex
    with ThreadPoolExecutor(1) as pool:
        with database.session() as session:
            copy = text(
                "INSERT INTO problems (id, idempotency_key, request_digest, question, policy, policy_revision,"
                " policy_parameters, options) SELECT :copy, :key, request_digest, question, policy, policy_revision,"
                " policy_parameters, options FROM problems WHERE id = :id"
            )
            copied = uuid4()
            session.execute(copy, {"copy": copied, "key": copy_key, "id": UUID(first["id"])})
            second = pool.submit(
                TestClient(app).post, "/v1/problems", json=QUESTION, headers={"Idempotency-Key": copy_key}
            )
            until(lambda: is_blocked(database))
        answer = second.result(PATIENCE_S)
    assert (answer.status_code, answer.json()["id"]) == (200, str(copied))


def is_blocked(database: Database) -> bool:
    """Tell whether some insert in this database waits for another transaction."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with database.session() as session:
        return bool(session.scalar(query))


# --- batches --------------------------------------------------------------------------------------------------------


def test_a_batch_gives_its_problems_in_order_with_the_defaults(api: TestClient) -> None:
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
def test_one_wrong_problem_keeps_the_whole_batch_out_and_is_named(
    api: TestClient, database: Database, wrong: object, code: str, named: str
) -> None:
    before = count_problems(database)
    response = api.post("/v1/batches", json={"problems": [QUESTION, wrong, QUESTION]})
    assert named in wrong_fields(response, code)
    assert count_problems(database) == before


@pytest.mark.parametrize("count", [0, 6])
def test_a_batch_that_is_empty_or_too_large_is_refused(api: TestClient, count: int) -> None:
    assert "problems" in wrong_fields(api.post("/v1/batches", json={"problems": [QUESTION] * count}))


def test_a_batch_adds_up_statuses_verdicts_steps_and_ledgers(api: TestClient, database: Database) -> None:
    made = submit_batch(api, 4)
    one, two, three, _ = made["problem_ids"]
    now = datetime.now(UTC)
    change(database, one, status="succeeded", verdict="correct", finished_at=now, small_kept=10, large_out=3)
    change(database, two, status="succeeded", verdict="incorrect", finished_at=now, small_kept=5, prm_calls=2)
    change(database, three, status="failed", failure_code="engine_failed", failure_detail="It broke.", finished_at=now)
    add_step(database, one, 0)
    add_step(database, one, 1, author="large")
    add_step(database, two, 0)
    batch = api.get(f"/v1/batches/{made['id']}").json()
    assert batch["size"] == 4
    assert {name: number for name, number in batch["statuses"].items() if number} == {
        "succeeded": 2, "failed": 1, "queued": 1,
    }  # fmt: skip
    assert {name: number for name, number in batch["verdicts"].items() if number} == {"correct": 1, "incorrect": 1}
    assert (batch["steps"], batch["escalated_steps"]) == (3, 1)
    expected = {each.name: 0 for each in fields(Ledger)} | {"small_kept": 15, "large_out": 3, "prm_calls": 2}
    assert batch["ledger"] == expected


def count_problems(database: Database) -> int:
    with database.session() as session:
        return int(session.scalar(text("SELECT count(*) FROM problems")) or 0)


# --- reading --------------------------------------------------------------------------------------------------------


def test_a_problem_shows_how_it_ended_and_what_it_cost(api: TestClient, database: Database) -> None:
    made = submit(api, reference="42")
    spent = {each.name: index + 2**31 for index, each in enumerate(fields(Ledger)) if not each.name.endswith("calls")}
    calls = {"small_calls": 7, "large_calls": 2, "prm_calls": 5}
    now = datetime.now(UTC)
    ended = {"status": "succeeded", "answer": "42", "verdict": "correct", "stop_reason": "final_answer", "epoch": 2}
    change(database, made["id"], **ended, **spent, **calls, started_at=now, finished_at=now)
    add_step(database, made["id"], 0)
    add_step(database, made["id"], 1, author="large")
    found = api.get(f"/v1/problems/{made['id']}").json()
    assert {name: found[name] for name in ended} == ended
    assert found["ledger"] == spent | calls
    assert (found["steps"], found["escalated_steps"], found["failure"]) == (2, 1, None)
    assert datetime.fromisoformat(found["finished_at"]) == now
    for name, link in found["links"].items():
        answer = api.post(link) if name == "cancel" else api.get(link)
        assert answer.status_code == 200, name


def test_a_failed_problem_says_why(api: TestClient, database: Database) -> None:
    made = submit(api)
    change(database, made["id"], status="failed", failure_code="too_many_attempts", failure_detail="It gave up.")
    failure = api.get(f"/v1/problems/{made['id']}").json()["failure"]
    assert failure == {"code": "too_many_attempts", "detail": "It gave up."}


@pytest.mark.parametrize("rest", ["", "/steps", "/decisions", "/audit", "/cancel"])
def test_an_unknown_problem_is_not_found_and_a_malformed_id_is_refused(api: TestClient, rest: str) -> None:
    send = api.post if rest == "/cancel" else api.get
    body = send(f"/v1/problems/{uuid4()}{rest}").json()
    assert body["status"] == 404
    assert "problem_id" in wrong_fields(send(f"/v1/problems/seven{rest}"))


@pytest.mark.parametrize("rest", ["", "/problems"])
def test_an_unknown_batch_is_not_found_and_a_malformed_id_is_refused(api: TestClient, rest: str) -> None:
    assert api.get(f"/v1/batches/{uuid4()}{rest}").status_code == 404
    assert "batch_id" in wrong_fields(api.get(f"/v1/batches/1%00{rest}"))


def test_waiting_ends_as_soon_as_the_problem_is_final(app: FastAPI, api: TestClient, database: Database) -> None:
    made = submit(api)
    looked = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: (looked.set(), TestClient(app).get(f"/v1/problems/{made['id']}?wait_s=60"))[1])
        looked.wait(PATIENCE_S)
        assert not waiting.done()
        change(database, made["id"], status="cancelled", finished_at=datetime.now(UTC))
        assert waiting.result(PATIENCE_S).json()["status"] == "cancelled"


def test_waiting_is_bounded_and_holds_no_connection(app: FastAPI, database: Database, api: TestClient) -> None:
    made = submit(api)
    small = Database(database.engine.url.render_as_string(hide_password=False), pool_size=1)
    waiters = 8
    with closing(small), ThreadPoolExecutor(waiters) as pool, TestClient(create_app(SETTINGS, small)) as one:
        before = time.monotonic()
        waiting = [pool.submit(one.get, f"/v1/problems/{made['id']}?wait_s=1") for _ in range(waiters)]
        # Eight wait on a pool of two connections, and there is still one for everybody else.
        assert one.get("/health/ready").status_code == 200
        statuses = [each.result(PATIENCE_S).json()["status"] for each in waiting]
    assert statuses == ["queued"] * waiters
    assert 1 <= time.monotonic() - before < 10


@pytest.mark.parametrize("wait_s", ["-1", "61", "nan", "inf", "soon"])
def test_a_wait_that_is_no_bounded_number_is_refused(api: TestClient, wait_s: str) -> None:
    made = submit(api)
    assert "wait_s" in wrong_fields(api.get(f"/v1/problems/{made['id']}?wait_s={wait_s}"))


# --- listing --------------------------------------------------------------------------------------------------------


def turn_pages(api: TestClient, path: str, between: Callable[[], object] = lambda: None, **query: Any) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        page = api.get(path, params=query | ({"cursor": cursor} if cursor else {})).json()
        found += [each["id"] for each in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return found
        between()


def test_pages_are_complete_without_doubles_while_problems_arrive(api: TestClient) -> None:
    made = [submit(api)["id"] for _ in range(4)] + submit_batch(api, 5)["problem_ids"]
    found = turn_pages(api, "/v1/problems", lambda: submit(api), limit=2)
    assert len(found) == len(set(found))
    assert set(made) <= set(found)
    assert [each for each in found if each in made[:4]] == made[3::-1], "newest first"


def test_problems_of_one_moment_are_paged_by_their_ids(api: TestClient) -> None:
    batch = submit_batch(api, 5)
    for limit in (1, 2, 5, 200):
        found = turn_pages(api, f"/v1/batches/{batch['id']}/problems", limit=limit)
        assert found == sorted(batch["problem_ids"], reverse=True)
    assert turn_pages(api, "/v1/problems", batch_id=batch["id"], limit=2) == found


def test_listings_are_filtered_by_status_policy_and_batch(api: TestClient, database: Database) -> None:
    batch = submit_batch(api, 3, policy={"name": "small-only"})
    other = submit_batch(api, 1)
    change(database, batch["problem_ids"][1], status="expired")
    assert turn_pages(api, "/v1/problems", status="expired", batch_id=batch["id"]) == [batch["problem_ids"][1]]
    assert set(batch["problem_ids"]) <= set(turn_pages(api, "/v1/problems", policy="small-only"))
    assert not set(other["problem_ids"]) & set(turn_pages(api, "/v1/problems", policy="small-only"))
    assert turn_pages(api, "/v1/problems", batch_id=str(uuid4())) == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=many", f"limit={10**30}", "status=done", "batch_id=1", "policy=%00"]
)
def test_a_wrong_filter_is_refused_by_its_name(api: TestClient, query: str) -> None:
    assert query.partition("=")[0] in wrong_fields(api.get(f"/v1/problems?{query}"))


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "%00",
        "%F0%9F%A7%AE",
        "bm90IGEgY3Vyc29y",
        base64.urlsafe_b64encode(b"[1, 2]").decode(),
        base64.urlsafe_b64encode(b'["2026-01-01T00:00:00+00:00", "x"]').decode(),
        base64.urlsafe_b64encode(f'["2026-01-01", "{uuid4()}"]'.encode()).decode(),
        base64.urlsafe_b64encode(f'["0001-01-01T00:00:00+23:59", "{uuid4()}"]'.encode()).decode(),
        base64.urlsafe_b64encode(f'["9999-12-31T23:59:59-23:59", "{uuid4()}"]'.encode()).decode(),
        "A" * 10_000,
    ],
)
def test_a_cursor_that_no_listing_gave_is_refused(api: TestClient, cursor: str) -> None:
    response = api.get(f"/v1/problems?cursor={cursor}")
    is_refusal(response, 422, response.json()["code"])
    assert response.json()["code"] in ("bad_cursor", "invalid_request")


# --- the record -----------------------------------------------------------------------------------------------------


def test_steps_and_decisions_show_every_stored_column(api: TestClient, database: Database) -> None:
    made = submit(api)
    add_step(database, made["id"], 0)
    add_step(database, made["id"], 1, author="large")
    for name, table in (("steps", StepRow), ("decisions", DecisionRow)):
        rows = api.get(f"/v1/problems/{made['id']}/{name}").json()["items"]
        columns = {column.name for column in table.__table__.columns}
        assert [set(row) | {"problem_id"} for row in rows] == [columns] * 2
        assert all(value is not None for row in rows for value in row.values())
    assert rows[1]["previous_scores"] == [0.5]
    assert (rows[1]["seed"], rows[1]["draft_worked_ms"], rows[1]["against"]) == (2**53, 12.5, 0.5)


def test_the_audit_shows_every_column_of_the_view(api: TestClient, database: Database) -> None:
    made = submit(api)
    add_step(database, made["id"], 0, author="large")
    with database.session() as session:
        columns = set(session.execute(text("SELECT * FROM audit LIMIT 0")).keys())
    (row,) = api.get(f"/v1/problems/{made['id']}/audit").json()["items"]
    assert set(row) == columns
    assert (row["problem_id"], row["draft_text"], row["step_text"]) == (made["id"], "Draft 0.", "Step 0.")
    assert (row["action"], row["author"], row["policy_parameters"]) == ("escalate", "large", {"threshold": 0.5})


@pytest.mark.parametrize("name", ["steps", "decisions", "audit"])
def test_a_record_is_paged_by_step(api: TestClient, database: Database, name: str) -> None:
    made = submit(api)
    for step in range(5):
        add_step(database, made["id"], step)
    path = f"/v1/problems/{made['id']}/{name}"
    found: list[int] = []
    while page := api.get(path, params={"limit": 2, "after": found[-1] if found else -1}).json()["items"]:
        found += [row["step"] for row in page]
    assert found == [0, 1, 2, 3, 4]
    for query in ("limit=0", "limit=201", "after=-2", f"after={10**30}", "after=x"):
        assert query.partition("=")[0] in wrong_fields(api.get(f"{path}?{query}"))


# --- cancelling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["queued", "running"])
def test_cancelling_an_open_problem_is_noted_once(api: TestClient, database: Database, status: str) -> None:
    made = submit(api)
    change(database, made["id"], status=status)
    first = api.post(f"/v1/problems/{made['id']}/cancel")
    again = api.post(f"/v1/problems/{made['id']}/cancel")
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["status"] == status, "an orchestrator ends it, the API does not"
    assert first.json()["cancel_requested_at"] == again.json()["cancel_requested_at"] is not None


@pytest.mark.parametrize("status", [status for status in Status if status.is_final])
def test_cancelling_a_final_problem_changes_nothing(api: TestClient, database: Database, status: Status) -> None:
    made = submit(api)
    change(database, made["id"], status=status)
    before = api.get(f"/v1/problems/{made['id']}").json()
    response = api.post(f"/v1/problems/{made['id']}/cancel")
    assert response.status_code == 200
    assert response.json() == before
    assert before["cancel_requested_at"] is None


# --- policies, health, documentation --------------------------------------------------------------------------------


def test_policies_come_with_the_schema_of_their_parameters(api: TestClient) -> None:
    listed = {each["name"]: each for each in api.get("/v1/policies").json()}
    assert set(listed) == set(POLICIES)
    threshold = listed["threshold"]
    assert threshold["revision"] == 1
    assert threshold["description"].startswith("Escalate a draft whose PRM score is below a threshold")
    assert "neither calls the PRM" not in threshold["description"], "the first paragraph only"
    assert threshold["parameters"]["properties"]["threshold"]["maximum"] == 1


def test_readiness_names_every_part_and_who_was_seen(postgres_server: str) -> None:
    with scratch_database(postgres_server) as url, closing(Database(url)) as database:
        api = TestClient(create_app(SETTINGS, database))
        nobody = api.get("/health/ready")
        assert nobody.status_code == 200, "submissions are taken without workers"
        assert nobody.json()["status"] == "degraded"
        assert nobody.json()["down"] == ["orchestrator", "small", "large", "prm"]
        submit(api)

        now = datetime.now(UTC)
        with database.begin() as connection:
            for role in ("orchestrator", "small", "large"):
                record_processes(connection, [SeenProcess(f"{role}-0", role=role, model=None, seen_at=now)])
            silent = SeenProcess("prm-0", role="prm", model="m", seen_at=now - timedelta(seconds=16))
            record_processes(connection, [silent])
        some = api.get("/health/ready").json()
        assert (some["status"], some["down"]) == ("degraded", ["prm"])
        parts = {part["name"]: part for part in some["parts"]}
        assert list(parts) == ["database", "schema", "orchestrator", "small", "large", "prm"]
        assert "small-0" in json.dumps(parts["small"])
        assert parts["small"]["is_up"]

        with database.session() as session:
            session.execute(update(Process).values(seen_at=datetime.now(UTC)))
        assert api.get("/health/ready").json()["down"] == []

        with database.session() as session:
            session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        other = api.get("/health/ready")
        assert other.status_code == 503
        assert "schema" in other.json()["down"]
        assert "database" not in other.json()["down"]


def test_an_empty_database_is_not_ready_and_says_so_to_submitters(postgres_server: str) -> None:
    with scratch_database(postgres_server) as url, closing(Database(url)) as database:
        with database.session() as session:
            session.execute(text("DROP SCHEMA public CASCADE"))
            session.execute(text("CREATE SCHEMA public"))
        api = TestClient(create_app(SETTINGS, database), raise_server_exceptions=False)
        assert api.get("/health/ready").status_code == 503
        assert REVISION in api.get("/health/ready").text
        is_refusal(api.post("/v1/problems", json=QUESTION), 503, "schema_outdated")


def test_without_a_database_the_process_lives_and_says_what_is_down(dead_api: TestClient) -> None:
    assert dead_api.get("/health/live").status_code == 200
    response = dead_api.get("/health/ready")
    assert response.status_code == 503
    assert response.json()["status"] == "unavailable"
    names = ["database", "schema", "orchestrator", "small", "large", "prm"]
    assert [part["name"] for part in response.json()["parts"]] == names
    assert response.json()["down"] == names
    assert dead_api.get("/v1/policies").status_code == 200


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


def test_the_documentation_tells_of_errors_and_shows_examples(api: TestClient) -> None:
    schema = api.get("/openapi.json").json()
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            if path.startswith("/v1"):
                refused = [answer for code, answer in operation["responses"].items() if code[0] in "45"]
                assert refused, path
                assert all(set(answer["content"]) == {"application/problem+json"} for answer in refused), path
    assert "example" in json.dumps(schema["components"]["schemas"])
    assert api.get("/docs").status_code == 404


# --- the process ----------------------------------------------------------------------------------------------------


def run_api(**environment: str) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRIM_")}
    return subprocess.Popen(
        [sys.executable, "-m", "services.api"],
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_without_the_databases_address_the_process_ends_with_one_sentence() -> None:
    with run_api() as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert out == ""
    assert "TRIM_DATABASE_URL" in err
    assert len(err.splitlines()) == 1


def test_the_process_serves_at_a_free_port_and_stops_when_told_even_while_somebody_waits(database: Database) -> None:
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with run_api(TRIM_DATABASE_URL=url, TRIM_API_PORT="0", TRIM_LOG_FORMAT="json") as process:
        try:
            assert process.stderr is not None
            address = next(found["address"] for line in process.stderr if "address" in (found := json.loads(line)))
            with httpx2.Client(base_url=address, timeout=PATIENCE_S) as http, ThreadPoolExecutor(1) as pool:
                made = http.post("/v1/problems", json=QUESTION)
                assert made.status_code == 201
                path = made.headers["location"]
                with database.session() as session:
                    # Locked out, the request is known to be there: it waits for its first look.
                    session.execute(text("LOCK TABLE problems IN ACCESS EXCLUSIVE MODE"))
                    waiting = pool.submit(http.get, f"{path}?wait_s=60")
                    until(lambda: is_blocked(database))
                    process.send_signal(signal.SIGTERM)
                before = time.monotonic()
                assert waiting.result(PATIENCE_S).json()["status"] == "queued"
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert time.monotonic() - before < 10
    assert process.returncode == 0, err
    assert out == ""
    assert "Traceback" not in err
    assert any(json.loads(line)["event"] == "api_stopped" for line in err.splitlines())
