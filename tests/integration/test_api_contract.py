"""The REST API as its clients meet it: the contract, with a record that real events made."""

from __future__ import annotations

import json
import re
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import make_url, text
from sqlalchemy.orm import Session

import services.api.problems as problem_endpoints
from services.api.app import create_app
from shared.domain.commands import next_commands
from shared.domain.state import CancelRequested, ControlEvent, ProblemAdmitted, State
from shared.domain.text import prefix_digest
from shared.domain.transitions import apply
from shared.domain.values import Draft, Finish, Scoring
from shared.messages import GenerateSteps, ProblemEvent, StepsGenerated, StepsScored, derive_id
from shared.policies.registry import POLICIES
from shared.settings import Settings
from shared.store.admission import record_process
from shared.store.database import Database
from shared.store.reasoning import lock_problems, save_states
from stack.scratch import scratch_database
from tests.world import make_draft

pytestmark = pytest.mark.servers

MAX_BODY_BYTES = 20_000
MAX_QUESTION_CHARS = 200
MAX_BATCH_SIZE = 5
HEARTBEAT_S = 60.0
PATIENCE_S = 60.0
"""How long a test waits for another thread before it gives up."""

UNKNOWN_ID = "00000000-0000-4000-8000-00000000dead"
JSON = {"Content-Type": "application/json"}
INT32_PLUS_1 = 2**31

SUBRESOURCES = ("steps", "decisions", "audit")
PROCESSES = ("orchestrator", "small", "large", "prm")


# --- the app --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_database(postgres_server: str) -> Iterator[Database]:
    with scratch_database(postgres_server) as url, closing(Database(url, pool_size=10)) as made:
        yield made


@pytest.fixture
def database(shared_database: Database) -> Database:
    """A migrated database with nothing in it."""
    with shared_database.begin() as connection:
        # Decisions are append-only: the trigger has to look away.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text("TRUNCATE batches, problems, steps, decisions, inbox, processes"))
    return shared_database


@contextmanager
def serve(database: Database) -> Iterator[TestClient]:
    settings = Settings(
        max_body_bytes=MAX_BODY_BYTES,
        max_question_chars=MAX_QUESTION_CHARS,
        max_batch_size=MAX_BATCH_SIZE,
        heartbeat_s=HEARTBEAT_S,
    )
    with TestClient(create_app(settings, database), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(database: Database) -> Iterator[TestClient]:
    with serve(database) as made:
        yield made


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is taken, so that nobody else listens there, and on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        yield port


@pytest.fixture
def client_without_database(closed_port: int) -> Iterator[TestClient]:
    url = f"postgresql://somebody:sesame@127.0.0.1:{closed_port}/nothing"
    with closing(Database(url)) as database, serve(database) as made:
        yield made


def refused(response: Any, status: int, code: str) -> dict[str, Any]:
    """Assert that an answer is an error as all errors are; return its body."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["type"] == "about:blank"
    assert body["title"]
    assert body["detail"]
    assert body["request_id"]
    assert response.headers.get_list("X-Request-ID") == [body["request_id"]]
    for trace in ("Traceback", 'File \\"', ".py", "psycopg", "sqlalchemy", "sesame"):
        assert trace not in response.text
    return body


def submit(client: TestClient, **choices: Any) -> dict[str, Any]:
    response = client.post("/v1/problems", json={"question": "What is 6 times 7?", **choices})
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


def submit_raw(client: TestClient, body: bytes, headers: Mapping[str, str] = JSON) -> Any:
    return client.post("/v1/problems", content=body, headers=dict(headers))


def count(database: Database, table: Literal["problems", "batches"]) -> int:
    with database.begin() as connection:
        found: int = connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
    return found


def turn_pages(client: TestClient, path: str, **query: Any) -> Iterator[list[dict[str, Any]]]:
    cursor: str | None = None
    while True:
        response = client.get(path, params=query if cursor is None else {**query, "cursor": cursor})
        assert response.status_code == 200, response.text
        page = response.json()
        yield page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return


def list_ids(client: TestClient, path: str = "/v1/problems", **query: Any) -> list[str]:
    return [each["id"] for page in turn_pages(client, path, **query) for each in page]


# --- the orchestrator and its workers, played by hand ---------------------------------------------------------------


def happen(database: Database, problem_id: str, event: ProblemEvent | ControlEvent) -> State:
    """Apply an event to a problem as an orchestrator does, and store what becomes of it."""
    key = uuid.UUID(problem_id)
    heard: set[uuid.UUID] = set()
    if isinstance(event, StepsGenerated | StepsScored):
        heard = {event.id, *(draft.id for draft in event.drafts)}
    with database.begin() as connection:
        locked = lock_problems(connection, [key], heard=heard)[key]
        state = apply(locked.state, event, decide=locked.policy.decide, now=datetime.now(UTC))
        save_states(connection, [(locked, state)])
    return state


def write(state: State, words: str, *, score: float | None = None, unscored: float | None = None) -> ProblemEvent:
    """Do the work that a problem waits for: one step, and its score if one is asked for."""
    command = next(each for each in next_commands(state) if isinstance(each, GenerateSteps))
    draft: Draft = make_draft(
        command_id=command.id,
        author=command.role,
        index=len(command.prefix),
        after=prefix_digest(command.question, command.prefix),
        text=words,
        finish=Finish.SEPARATOR,
        prompt_tokens=10,
        cached_tokens=4,
    )
    if command.then == "events":
        return StepsGenerated(
            problem_id=command.problem_id, epoch=command.epoch, id=derive_id(command.id, "generated"), drafts=(draft,)
        )
    return StepsScored(
        problem_id=command.problem_id,
        epoch=command.epoch,
        id=derive_id(command.id, "scored"),
        drafts=(draft,),
        scores=(score,),
        prefix_scores=(unscored,) if command.unscored else (),
        scoring=Scoring(
            id=derive_id(command.id, "scoring"),
            model="prm-model",
            worker="worker-2",
            tokens=9,
            waited_ms=1.0,
            worked_ms=2.0,
        ),
    )


def solve(database: Database, problem_id: str) -> None:
    """Solve a problem in three steps: one kept, one escalated, one kept that holds the answer."""
    state = happen(database, problem_id, ProblemAdmitted())
    state = happen(database, problem_id, write(state, "Six sevens are wanted.", score=0.9))
    state = happen(database, problem_id, write(state, "That makes 41.", score=0.25))
    state = happen(database, problem_id, write(state, "That makes 42."))
    state = happen(database, problem_id, write(state, "Hence \\boxed{42}", score=0.75, unscored=0.5))
    assert state.status == "succeeded"


@contextmanager
def in_thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=8) as pool:
        yield pool


# --- submitting one problem -----------------------------------------------------------------------------------------


def test_a_submitted_problem_is_found_at_its_location(client: TestClient) -> None:
    response = client.post("/v1/problems", json={"question": "What is 6 times 7?", "reference": "42"})
    assert response.status_code == 201
    made = response.json()
    assert response.headers["Location"] == f"/v1/problems/{made['id']}" == made["links"]["self"]
    found = client.get(response.headers["Location"])
    assert found.status_code == 200
    assert found.json() == made
    assert (made["question"], made["reference"], made["status"]) == ("What is 6 times 7?", "42", "queued")
    for name in SUBRESOURCES:
        assert client.get(made["links"][name]).json() == {"items": []}


def test_what_is_not_said_takes_the_defaults(client: TestClient) -> None:
    made = submit(client)
    assert made["policy"] == {"name": "threshold", "revision": 1, "parameters": {"threshold": 0.5}}
    assert made["lookahead"] == 0
    assert made["limits"] == {"max_steps": 30, "max_step_tokens": 512, "max_tokens": 4096}
    assert isinstance(made["sampling"].pop("seed"), int)
    assert made["sampling"] == {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
    assert (made["step_timeout_s"], made["max_attempts"], made["deadline_at"]) == (60.0, 5, None)
    assert (made["reference"], made["batch_id"], made["batch_index"]) == (None, None, None)
    assert (made["steps"], made["escalated_steps"], made["epoch"]) == (0, 0, 0)
    assert (made["answer"], made["verdict"], made["stop_reason"], made["failure"]) == (None, None, None, None)
    assert set(made["ledger"].values()) == {0}


def test_what_is_said_is_kept(client: TestClient) -> None:
    said = {
        "policy": {"name": "random", "parameters": {"p": 0.25}},
        "lookahead": "unlimited",
        "limits": {"max_steps": 7, "max_step_tokens": 99, "max_tokens": 500},
        "sampling": {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "seed": 2**53},
        "step_timeout_s": 2.5,
        "max_attempts": 3,
    }
    made = submit(client, **said, deadline_s=3600)
    assert made["policy"] == {"name": "random", "revision": 1, "parameters": {"p": 0.25}}
    for name in ("lookahead", "limits", "sampling", "step_timeout_s", "max_attempts"):
        assert made[name] == said[name]
    assert made["deadline_at"] is not None


def test_problems_without_a_seed_get_seeds_of_their_own(client: TestClient) -> None:
    assert len({submit(client)["sampling"]["seed"] for _ in range(5)}) == 5


def test_text_of_every_script_comes_back_as_it_was_sent(client: TestClient) -> None:
    question = "Wieviel ist 6 × 7? 六乘七 \U0001d7d8 \u202e\t\r\n\\boxed{'; DROP TABLE problems; --}"
    assert client.get(submit(client, question=question)["links"]["self"]).json()["question"] == question


@pytest.mark.parametrize("question", ["x", "x" * MAX_QUESTION_CHARS])
def test_the_shortest_and_the_longest_question_are_taken(client: TestClient, question: str) -> None:
    assert submit(client, question=question)["question"] == question


# --- idempotency ----------------------------------------------------------------------------------------------------


def test_the_same_submission_with_the_same_key_is_the_same_problem(client: TestClient, database: Database) -> None:
    body, headers = {"question": "What is 6 times 7?", "max_attempts": 3}, {"Idempotency-Key": "once"}
    first, second = (client.post("/v1/problems", json=body, headers=headers) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == first.json()
    assert second.headers["Location"] == first.headers["Location"]
    assert count(database, "problems") == 1


def test_another_submission_with_the_same_key_is_a_conflict(client: TestClient, database: Database) -> None:
    headers = {"Idempotency-Key": "once"}
    assert client.post("/v1/problems", json={"question": "One?"}, headers=headers).status_code == 201
    refused(client.post("/v1/problems", json={"question": "Two?"}, headers=headers), 409, "idempotency_conflict")
    assert count(database, "problems") == 1


def test_the_same_submission_without_or_with_another_key_is_another_problem(
    client: TestClient, database: Database
) -> None:
    for headers in ({}, {}, {"Idempotency-Key": "one"}, {"Idempotency-Key": "two"}):
        assert client.post("/v1/problems", json={"question": "One?"}, headers=headers).status_code == 201
    assert count(database, "problems") == 4


@pytest.mark.parametrize(
    ("path", "body", "table"),
    [
        ("/v1/problems", {"question": "One?"}, "problems"),
        ("/v1/batches", {"problems": [{"question": "One?"}]}, "batches"),
    ],
)
def test_doubles_at_the_same_time_make_one(
    client: TestClient, database: Database, path: str, body: dict[str, Any], table: Literal["problems", "batches"]
) -> None:
    start = threading.Barrier(8)

    def send(_: int) -> Any:
        start.wait(PATIENCE_S)
        return client.post(path, json=body, headers={"Idempotency-Key": "once"})

    with in_thread() as pool:
        responses = list(pool.map(send, range(8)))
    assert sorted(each.status_code for each in responses) == [200] * 7 + [201]
    assert len({each.json()["id"] for each in responses}) == 1
    assert (count(database, table), count(database, "problems")) == (1, 1)


def test_a_double_waits_for_the_first_ones_commit(
    client: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is held between its insert and its commit until the database says that the second waits for it."""
    inserted = threading.Event()
    original = problem_endpoints.submit_problem

    def submit_slowly(session: Session, *args: Any, **kwargs: Any) -> Any:
        is_first = not inserted.is_set()
        stored = original(session, *args, **kwargs)
        if is_first:
            inserted.set()
            wait_for_blocked_insert(database)
        return stored

    monkeypatch.setattr(problem_endpoints, "submit_problem", submit_slowly)

    def send() -> Any:
        return client.post("/v1/problems", json={"question": "One?"}, headers={"Idempotency-Key": "once"})

    with in_thread() as pool:
        first = pool.submit(send)
        assert inserted.wait(PATIENCE_S)
        second = pool.submit(send)
        responses = first.result(PATIENCE_S), second.result(PATIENCE_S)
    assert [each.status_code for each in responses] == [201, 200]
    assert responses[0].json()["id"] == responses[1].json()["id"]


def wait_for_blocked_insert(database: Database) -> None:
    blocked = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    until = datetime.now(UTC) + timedelta(seconds=PATIENCE_S)
    while datetime.now(UTC) < until:
        with database.begin() as connection:
            if connection.execute(blocked).scalar_one():
                return
    raise AssertionError("the second submission never waited")


@pytest.mark.parametrize("key", ["", "with space", "tab\there", "x" * 201, "é"])
def test_a_bad_idempotency_key_is_refused(client: TestClient, database: Database, key: str) -> None:
    headers = [("Idempotency-Key", key.encode("latin-1"))]
    response = client.post("/v1/problems", json={"question": "One?"}, headers=headers)
    assert "Idempotency-Key" in refused(response, 422, "invalid_request")["detail"]
    assert count(database, "problems") == 0


# --- batches --------------------------------------------------------------------------------------------------------


def test_a_batch_completes_its_problems_with_its_defaults(client: TestClient) -> None:
    body = {
        "defaults": {"policy": {"name": "random", "parameters": {"p": 0.1}}, "max_attempts": 2, "lookahead": 3},
        "problems": [
            {"question": "One?"},
            {"question": "Two?", "lookahead": 0},
            {"question": "Three?", "policy": {"name": "small-only"}},
        ],
    }
    response = client.post("/v1/batches", json=body)
    assert response.status_code == 201, response.text
    made = response.json()
    assert response.headers["Location"] == f"/v1/batches/{made['id']}"
    problems = [client.get(f"/v1/problems/{each}").json() for each in made["problem_ids"]]
    assert [each["question"] for each in problems] == ["One?", "Two?", "Three?"]
    assert [each["batch_index"] for each in problems] == [0, 1, 2]
    assert {each["batch_id"] for each in problems} == {made["id"]}
    assert [each["policy"]["name"] for each in problems] == ["random", "random", "small-only"]
    assert [each["lookahead"] for each in problems] == [3, 0, 3]
    assert {each["max_attempts"] for each in problems} == {2}


def test_a_batch_shows_its_sums(client: TestClient, database: Database) -> None:
    made = client.post(
        "/v1/batches", json={"problems": [{"question": "One?", "reference": "42"}, {"question": "Two?"}]}
    ).json()
    solve(database, made["problem_ids"][0])
    batch = client.get(f"/v1/batches/{made['id']}").json()
    assert batch["size"] == 2
    assert {name: n for name, n in batch["statuses"].items() if n} == {"queued": 1, "succeeded": 1}
    assert {name: n for name, n in batch["verdicts"].items() if n} == {"correct": 1}
    assert (batch["steps"], batch["escalated_steps"]) == (3, 1)
    assert batch["ledger"] == client.get(f"/v1/problems/{made['problem_ids'][0]}").json()["ledger"]
    pages = list(turn_pages(client, f"/v1/batches/{made['id']}/problems", limit=1))
    assert [len(page) for page in pages] == [1, 1]
    assert sorted(page[0]["id"] for page in pages) == sorted(made["problem_ids"])


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"question": ""}, "invalid_request"),
        ({}, "invalid_request"),
        ({"question": "x" * (MAX_QUESTION_CHARS + 1)}, "invalid_request"),
        ({"question": "Two?", "limits": {"max_steps": -1}}, "invalid_request"),
        ({"question": "Two?", "unknown": 1}, "invalid_request"),
        ({"question": "Two?", "policy": {"name": "nobody"}}, "unknown_policy"),
        ({"question": "Two?", "policy": {"parameters": {"threshold": 2}}}, "bad_policy_parameters"),
        ("Two?", "invalid_request"),
    ],
)
def test_one_wrong_problem_refuses_the_whole_batch_and_is_named(
    client: TestClient, database: Database, wrong: object, code: str
) -> None:
    body = {"problems": [{"question": "One?"}, {"question": "Right?"}, wrong]}
    error = refused(client.post("/v1/batches", json=body), 422, code)
    assert error["errors"][0]["field"].removeprefix("body.").startswith("problems.2")
    assert (count(database, "batches"), count(database, "problems")) == (0, 0)


def test_an_empty_and_an_oversized_batch_are_refused(client: TestClient, database: Database) -> None:
    refused(client.post("/v1/batches", json={"problems": []}), 422, "invalid_request")
    many = [{"question": "One?"}] * (MAX_BATCH_SIZE + 1)
    error = refused(client.post("/v1/batches", json={"problems": many}), 422, "invalid_request")
    assert str(MAX_BATCH_SIZE) in error["detail"]
    assert client.post("/v1/batches", json={"problems": many[1:]}).status_code == 201
    assert count(database, "batches") == 1


def test_wrong_defaults_refuse_the_batch(client: TestClient, database: Database) -> None:
    for defaults in ({"question": "One?"}, {"limits": {"max_steps": 0}}, {"unknown": 1}):
        body = {"defaults": defaults, "problems": [{"question": "One?"}]}
        error = refused(client.post("/v1/batches", json=body), 422, "invalid_request")
        assert "defaults" in error["detail"]
    assert count(database, "batches") == 0


def test_a_batch_with_the_same_key_is_the_same_batch_or_a_conflict(client: TestClient, database: Database) -> None:
    body, headers = {"problems": [{"question": "One?"}, {"question": "Two?"}]}, {"Idempotency-Key": "once"}
    first, second = (client.post("/v1/batches", json=body, headers=headers) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == first.json()
    other = {"problems": [{"question": "One?"}]}
    refused(client.post("/v1/batches", json=other, headers=headers), 409, "idempotency_conflict")
    assert (count(database, "batches"), count(database, "problems")) == (1, 2)


# --- listings -------------------------------------------------------------------------------------------------------


def test_pages_are_complete_and_without_doubles_while_problems_are_inserted(client: TestClient) -> None:
    known = [submit(client)["id"] for _ in range(3)]
    batch = client.post("/v1/batches", json={"problems": [{"question": "One?"}] * 4}).json()
    known += batch["problem_ids"]  # all of one moment: only their ids tell them apart
    seen: list[str] = []
    for page in turn_pages(client, "/v1/problems", limit=2):
        seen += [each["id"] for each in page]
        submit(client)
    assert len(seen) == len(set(seen))
    assert set(seen) == set(known)


def test_a_listing_is_newest_first_and_ends(client: TestClient) -> None:
    known = [submit(client)["id"] for _ in range(4)]
    assert list_ids(client, limit=2) == known[::-1]
    assert list_ids(client, limit=4) == known[::-1]
    assert list_ids(client) == known[::-1]


def test_an_empty_listing_is_a_page_without_a_next_one(client: TestClient) -> None:
    assert client.get("/v1/problems").json() == {"items": [], "next_cursor": None}


def test_filters_narrow_a_listing(client: TestClient, database: Database) -> None:
    queued, running, solved = (submit(client)["id"] for _ in range(3))
    other = submit(client, policy={"name": "small-only"})["id"]
    batch = client.post("/v1/batches", json={"problems": [{"question": "One?"}]}).json()
    happen(database, running, ProblemAdmitted())
    solve(database, solved)
    assert list_ids(client, status="running") == [running]
    assert list_ids(client, status="succeeded") == [solved]
    assert set(list_ids(client, status="queued", limit=1)) == {queued, other, *batch["problem_ids"]}
    assert list_ids(client, policy="small-only") == [other]
    assert list_ids(client, batch_id=batch["id"]) == batch["problem_ids"]
    assert list_ids(client, status="running", policy="small-only") == []
    assert list_ids(client, policy="nobody") == []
    assert list_ids(client, batch_id=UNKNOWN_ID) == []


@pytest.mark.parametrize(
    "cursor", ["", "x", "é", "W10=", "WyJhIiwiYiJd", "bnVsbA==", "eyJhIjoxLCJiIjoyfQ==", "WzEsMl0=", "%00", "x" * 400]
)
def test_a_bad_cursor_is_refused(client: TestClient, cursor: str) -> None:
    submit(client)
    refused(client.get("/v1/problems", params={"cursor": cursor}), 422, "bad_cursor")
    batch = client.post("/v1/batches", json={"problems": [{"question": "One?"}]}).json()["id"]
    refused(client.get(f"/v1/batches/{batch}/problems", params={"cursor": cursor}), 422, "bad_cursor")


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=201",
        "limit=many",
        f"limit={'9' * 30}",
        "status=asleep",
        "batch_id=7",
        "policy=%00",
        f"policy={'x' * 81}",
        f"cursor={'x' * 501}",
    ],
)
def test_a_bad_query_of_a_listing_is_refused(client: TestClient, query: str) -> None:
    error = refused(client.get(f"/v1/problems?{query}"), 422, "invalid_request")
    assert query.partition("=")[0] in error["errors"][0]["field"]


# --- the record -----------------------------------------------------------------------------------------------------


def test_the_record_shows_each_step_with_its_decision(client: TestClient, database: Database) -> None:
    made = submit(client, reference="42", sampling={"seed": 11})
    solve(database, made["id"])
    problem = client.get(made["links"]["self"]).json()
    assert (problem["status"], problem["stop_reason"]) == ("succeeded", "final_answer")
    assert (problem["answer"], problem["verdict"]) == ("42", "correct")
    assert (problem["steps"], problem["escalated_steps"], problem["epoch"]) == (3, 1, 1)
    assert problem["started_at"] <= problem["finished_at"]
    assert problem["ledger"] == {
        "small_kept": 10,
        "small_discarded": 5,
        "small_wasted": 0,
        "small_in": 18,
        "large_out": 5,
        "large_wasted": 0,
        "large_in": 6,
        "prm": 27,
        "small_calls": 3,
        "large_calls": 1,
        "prm_calls": 3,
    }

    steps = client.get(made["links"]["steps"]).json()["items"]
    assert [(each["step"], each["author"], each["text"], each["score"]) for each in steps] == [
        (0, "small", "Six sevens are wanted.", 0.9),
        (1, "large", "That makes 42.", 0.5),
        (2, "small", "Hence \\boxed{42}", 0.75),
    ]
    decisions = client.get(made["links"]["decisions"]).json()["items"]
    assert [(each["step"], each["action"], each["reason"], each["value"], each["against"]) for each in decisions] == [
        (0, "accept", "score_at_least_threshold", 0.9, 0.5),
        (1, "escalate", "score_below_threshold", 0.25, 0.5),
        (2, "accept", "score_at_least_threshold", 0.75, 0.5),
    ]
    assert [each["draft_text"] for each in decisions] == [
        "Six sevens are wanted.",
        "That makes 41.",
        "Hence \\boxed{42}",
    ]
    assert [each["previous_scores"] for each in decisions] == [[], [0.9], [0.9, 0.5]]
    assert [each["is_final"] for each in decisions] == [False, False, True]
    assert [each["epoch"] for each in decisions] == [0, 0, 1]
    assert {each["seed"] for each in decisions} == {11}
    assert {(each["prm_model"], each["prm_worker"], each["prm_tokens"]) for each in decisions} == {
        ("prm-model", "worker-2", 9)
    }

    audit = client.get(made["links"]["audit"]).json()["items"]
    assert {each["problem_id"] for each in audit} == {made["id"]}
    assert [(each["action"], each["author"], each["draft_text"], each["step_text"]) for each in audit] == [
        ("accept", "small", "Six sevens are wanted.", "Six sevens are wanted."),
        ("escalate", "large", "That makes 41.", "That makes 42."),
        ("accept", "small", "Hence \\boxed{42}", "Hence \\boxed{42}"),
    ]
    assert [(each["draft_score"], each["step_score"]) for each in audit] == [(0.9, 0.9), (0.25, 0.5), (0.75, 0.75)]
    assert {each["policy"] for each in audit} == {"threshold"}


@pytest.mark.parametrize("name", SUBRESOURCES)
def test_the_record_comes_in_pages(client: TestClient, database: Database, name: str) -> None:
    made = submit(client)
    solve(database, made["id"])
    path = made["links"][name]

    def steps(query: str) -> list[int]:
        return [each["step"] for each in client.get(f"{path}?{query}").json()["items"]]

    assert steps("limit=2") == [0, 1]
    assert steps("limit=2&after=1") == [2]
    assert steps("after=2") == []
    assert steps("after=-1") == [0, 1, 2]


@pytest.mark.parametrize("query", ["after=-2", "after=x", f"after={INT32_PLUS_1}", f"after={'9' * 30}", "limit=0"])
@pytest.mark.parametrize("name", SUBRESOURCES)
def test_a_bad_query_of_the_record_is_refused(client: TestClient, name: str, query: str) -> None:
    refused(client.get(f"{submit(client)['links'][name]}?{query}"), 422, "invalid_request")


def test_decisions_are_append_only(client: TestClient, database: Database) -> None:
    made = submit(client)
    solve(database, made["id"])
    before = client.get(made["links"]["decisions"]).json()
    for statement in ("UPDATE decisions SET action = 'accept'", "DELETE FROM decisions", "TRUNCATE decisions"):
        with pytest.raises(Exception, match="append-only"), database.begin() as connection:
            connection.execute(text(statement))
    with pytest.raises(Exception, match="append-only"), database.begin() as connection:
        connection.execute(text("TRUNCATE problems CASCADE"))
    assert client.get(made["links"]["decisions"]).json() == before


# --- cancelling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_running", [False, True])
def test_an_open_problem_can_be_cancelled(client: TestClient, database: Database, is_running: bool) -> None:
    made = submit(client)
    if is_running:
        happen(database, made["id"], ProblemAdmitted())
    first = client.post(made["links"]["cancel"])
    assert first.status_code == 202
    asked = first.json()
    assert asked["status"] == ("running" if is_running else "queued")
    assert asked["cancel_requested_at"] is not None
    again = client.post(made["links"]["cancel"])
    assert (again.status_code, again.json()) == (202, asked)
    happen(database, made["id"], CancelRequested())
    assert client.get(made["links"]["self"]).json()["status"] == "cancelled"


def test_cancelling_what_has_ended_changes_nothing(client: TestClient, database: Database) -> None:
    made = submit(client)
    solve(database, made["id"])
    before = client.get(made["links"]["self"]).json()
    response = client.post(made["links"]["cancel"])
    assert (response.status_code, response.json()) == (200, before)
    assert client.get(made["links"]["self"]).json() == before
    assert before["cancel_requested_at"] is None


def test_a_submission_and_a_cancel_wake_orchestrators(client: TestClient, database: Database) -> None:
    with closing(database.listen()) as listening:
        made = submit(client)
        assert len(list(listening.notifies(timeout=PATIENCE_S, stop_after=1))) == 1
        client.post(made["links"]["cancel"])
        assert len(list(listening.notifies(timeout=PATIENCE_S, stop_after=1))) == 1


# --- waiting --------------------------------------------------------------------------------------------------------


def test_a_waiting_request_returns_when_the_problem_ends(
    client: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = submit(client)
    looked = threading.Event()
    original = problem_endpoints.readings.read_status

    def look(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        looked.set()
        return found

    monkeypatch.setattr(problem_endpoints.readings, "read_status", look)
    with in_thread() as pool:
        waiting: Future[Any] = pool.submit(client.get, made["links"]["self"], params={"wait_s": 60})
        assert looked.wait(PATIENCE_S)
        assert not waiting.done()
        solve(database, made["id"])
        response = waiting.result(PATIENCE_S)
    assert response.status_code == 200
    assert response.json()["status"] == "succeeded"


def test_a_request_for_what_has_ended_does_not_wait(
    client: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_seconds: float) -> None:
        raise AssertionError("it waited")

    made = submit(client)
    solve(database, made["id"])
    monkeypatch.setattr(problem_endpoints.asyncio, "sleep", never)
    response = client.get(made["links"]["self"], params={"wait_s": 60})
    assert (response.status_code, response.json()["status"]) == (200, "succeeded")


def test_a_waiting_request_returns_the_open_problem_when_its_time_is_up(client: TestClient) -> None:
    response = client.get(submit(client)["links"]["self"], params={"wait_s": 0.05})
    assert (response.status_code, response.json()["status"]) == (200, "queued")


@pytest.mark.parametrize("wait_s", ["-1", "61", "nan", "inf", "long"])
def test_a_bad_waiting_time_is_refused(client: TestClient, wait_s: str) -> None:
    refused(client.get(f"{submit(client)['links']['self']}?wait_s={wait_s}"), 422, "invalid_request")


# --- the service itself ---------------------------------------------------------------------------------------------


def test_every_policy_is_listed_with_its_parameters(client: TestClient) -> None:
    listed = {each["name"]: each for each in client.get("/v1/policies").json()}
    assert listed.keys() == POLICIES.keys()
    for name, each in listed.items():
        assert each["revision"] == POLICIES[name].revision
        assert each["description"]
        assert each["parameters"]["additionalProperties"] is False
    assert listed["threshold"]["parameters"]["properties"]["threshold"]["default"] == 0.5


def test_the_service_is_degraded_until_every_process_is_seen(client: TestClient, database: Database) -> None:
    assert client.get("/health/live").status_code == 200
    missing = list(PROCESSES)
    assert readiness(client, 200) == ("degraded", missing)
    for role in PROCESSES:
        beat(database, role)
        missing.remove(role)
        assert readiness(client, 200) == ("degraded" if missing else "ready", missing)


def test_a_process_that_fell_silent_is_down(client: TestClient, database: Database) -> None:
    for role in PROCESSES:
        beat(database, role, ago_s=0 if role != "prm" else 10 * HEARTBEAT_S)
    assert readiness(client, 200) == ("degraded", ["prm"])
    beat(database, "prm", name="another")
    assert readiness(client, 200) == ("ready", [])


def test_readiness_names_a_database_that_is_down(client_without_database: TestClient) -> None:
    assert client_without_database.get("/health/live").status_code == 200
    assert readiness(client_without_database, 503) == ("unavailable", ["database", "schema", *PROCESSES])


def test_readiness_names_a_schema_that_is_missing(client_without_schema: TestClient) -> None:
    assert readiness(client_without_schema, 503) == ("unavailable", ["schema", *PROCESSES])


@pytest.fixture
def client_without_schema(postgres_server: str) -> Iterator[TestClient]:
    name = f"trim_empty_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres_server, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}".encode())
    try:
        url = make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
        with closing(Database(url)) as empty, serve(empty) as made:
            yield made
    finally:
        with psycopg.connect(postgres_server, autocommit=True) as server:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def readiness(client: TestClient, status: int) -> tuple[str, list[str]]:
    response = client.get("/health/ready")
    assert response.status_code == status
    body = response.json()
    assert [part["name"] for part in body["parts"] if not part["is_up"]] == body["down"]
    return body["status"], body["down"]


def beat(database: Database, role: str, *, name: str | None = None, ago_s: float = 0) -> None:
    with database.begin() as connection:
        seen_at = datetime.now(UTC) - timedelta(seconds=ago_s)
        record_process(connection, name=name or f"{role}-1", role=role, model=None, seen_at=seen_at)


# --- what is refused ------------------------------------------------------------------------------------------------

WRONG_FIELDS: list[tuple[str, dict[str, Any]]] = [
    ("question", {"question": ""}),
    ("question", {"question": " \t\n"}),
    ("question", {"question": "x" * (MAX_QUESTION_CHARS + 1)}),
    ("question", {"question": "a\x00b"}),
    ("question", {"question": 7}),
    ("question", {"question": None}),
    ("reference", {"reference": "a\x00b"}),
    ("reference", {"reference": "x" * 2001}),
    ("reference", {"reference": 42}),
    ("limits.max_steps", {"limits": {"max_steps": -1}}),
    ("limits.max_steps", {"limits": {"max_steps": 0}}),
    ("limits.max_steps", {"limits": {"max_steps": 201}}),
    ("limits.max_steps", {"limits": {"max_steps": 10**30}}),
    ("limits.max_steps", {"limits": {"max_steps": 1.5}}),
    ("limits.max_steps", {"limits": {"max_steps": "many"}}),
    ("limits.max_step_tokens", {"limits": {"max_step_tokens": 0}}),
    ("limits.max_step_tokens", {"limits": {"max_step_tokens": 8193}}),
    ("limits.max_tokens", {"limits": {"max_tokens": 10**9}}),
    ("limits.unknown", {"limits": {"unknown": 1}}),
    ("limits", {"limits": 5}),
    ("sampling.temperature", {"sampling": {"temperature": -0.1}}),
    ("sampling.temperature", {"sampling": {"temperature": 2.1}}),
    ("sampling.top_p", {"sampling": {"top_p": 0}}),
    ("sampling.top_p", {"sampling": {"top_p": 1.1}}),
    ("sampling.top_k", {"sampling": {"top_k": -1}}),
    ("sampling.seed", {"sampling": {"seed": -1}}),
    ("sampling.seed", {"sampling": {"seed": 2**53 + 1}}),
    ("lookahead", {"lookahead": -1}),
    ("lookahead", {"lookahead": 65}),
    ("lookahead", {"lookahead": "some"}),
    ("step_timeout_s", {"step_timeout_s": 0}),
    ("step_timeout_s", {"step_timeout_s": 3601}),
    ("max_attempts", {"max_attempts": 0}),
    ("max_attempts", {"max_attempts": 21}),
    ("deadline_s", {"deadline_s": 0}),
    ("deadline_s", {"deadline_s": -5}),
    ("deadline_s", {"deadline_s": 10**12}),
    ("policy.name", {"policy": {"name": "x" * 81}}),
    ("policy", {"policy": "threshold"}),
    ("unknown", {"unknown": 1}),
]


@pytest.mark.parametrize(("field", "wrong"), WRONG_FIELDS)
def test_a_wrong_field_is_refused_and_named(
    client: TestClient, database: Database, field: str, wrong: dict[str, Any]
) -> None:
    response = client.post("/v1/problems", json={"question": "One?", **wrong})
    error = refused(response, 422, "invalid_request")
    assert error["errors"][0]["field"].removeprefix("body.").startswith(field)
    assert count(database, "problems") == 0


def test_a_missing_question_is_refused(client: TestClient) -> None:
    refused(client.post("/v1/problems", json={}), 422, "invalid_request")


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        ({"name": "nobody"}, "unknown_policy"),
        ({"name": "no\x00body"}, "unknown_policy"),
        ({"name": ""}, "unknown_policy"),
        ({"name": "threshold", "parameters": {"unknown": 1}}, "bad_policy_parameters"),
        ({"name": "threshold", "parameters": {"threshold": "high"}}, "bad_policy_parameters"),
        ({"name": "threshold", "parameters": {"threshold": [0.5]}}, "bad_policy_parameters"),
        ({"name": "threshold", "parameters": {"threshold": None}}, "bad_policy_parameters"),
        ({"name": "threshold", "parameters": {"threshold": -0.1}}, "bad_policy_parameters"),
        ({"name": "threshold", "parameters": {"threshold": 1.1}}, "bad_policy_parameters"),
        ({"name": "random", "parameters": {"threshold": 0.5}}, "bad_policy_parameters"),
        ({"name": "small-only", "parameters": {"a\x00b": 0.5}}, "bad_policy_parameters"),
    ],
)
def test_a_wrong_policy_is_refused(client: TestClient, database: Database, policy: dict[str, Any], code: str) -> None:
    error = refused(client.post("/v1/problems", json={"question": "One?", "policy": policy}), 422, code)
    assert error["errors"][0]["field"].removeprefix("body.").startswith("policy")
    assert count(database, "problems") == 0


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"question": "a\\ud800b"}', "invalid_request"),
        (b'{"question": "a", "reference": "\\udc00"}', "invalid_request"),
        (b'{"question": "a", "policy": {"name": "\\ud800"}}', "invalid_request"),
        (b'{"question": "a", "\\ud800": 1}', "invalid_request"),
        (b'{"question": "a", "policy": {"parameters": {"\\ud800": 1}}}', "bad_policy_parameters"),
        (b'{"question": "a", "step_timeout_s": NaN}', "invalid_request"),
        (b'{"question": "a", "step_timeout_s": 1e999}', "invalid_request"),
        (b'{"question": "a", "deadline_s": Infinity}', "invalid_request"),
        (b'{"question": "a", "sampling": {"temperature": -Infinity}}', "invalid_request"),
        (b'{"question": "a", "policy": {"parameters": {"threshold": NaN}}}', "bad_policy_parameters"),
        (b'{"question": "a", "policy": {"parameters": {"threshold": Infinity}}}', "bad_policy_parameters"),
        (b"[1]", "invalid_request"),
        (b'"question"', "invalid_request"),
        (b"null", "invalid_request"),
    ],
)
def test_json_that_is_no_submission_is_refused(client: TestClient, database: Database, body: bytes, code: str) -> None:
    refused(submit_raw(client, body), 422, code)
    assert count(database, "problems") == 0


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"question":', "malformed_json"),
        (b"{'question': 'a'}", "malformed_json"),
        (b'{"question": "a"} {}', "malformed_json"),
        (b"question=a", "malformed_json"),
        ('{"question": "é"}'.encode("latin-1"), "malformed_body"),
        (b'{"question": "\xff"}', "malformed_body"),
        (b'{"question": "\xed\xa0\x80"}', "malformed_body"),
        ('{"question": "a"}'.encode("utf-16"), "malformed_body"),
        (b"[" * 5000 + b"]" * 5000, "malformed_body"),
        (b'{"question": "a", "limits": {"max_steps": ' + b"9" * 5000 + b"}}", "malformed_body"),
    ],
)
def test_a_body_that_is_no_json_is_refused(client: TestClient, database: Database, body: bytes, code: str) -> None:
    refused(submit_raw(client, body), 400, code)
    assert count(database, "problems") == 0


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/xml"])
def test_a_body_that_does_not_say_that_it_is_json_is_refused(client: TestClient, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    refused(submit_raw(client, b'{"question": "a"}', headers), 422, "invalid_request")


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_json_is_taken_however_it_is_written(client: TestClient, content_type: str) -> None:
    assert submit_raw(client, b'{"question": "a"}', {"Content-Type": content_type}).status_code == 201


def test_an_empty_body_is_refused(client: TestClient) -> None:
    refused(submit_raw(client, b""), 422, "invalid_request")


@pytest.mark.parametrize("path", ["/v1/problems", "/v1/batches"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_over_the_limit_is_refused(client: TestClient, database: Database, path: str, is_chunked: bool) -> None:
    body = json.dumps({"question": "x" * MAX_BODY_BYTES}).encode()

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    response = client.post(path, content=chunks() if is_chunked else body, headers=JSON)
    assert ("Content-Length" in response.request.headers) is not is_chunked
    refused(response, 413, "body_too_large")
    assert count(database, "problems") == 0


def test_a_body_of_just_the_limit_is_taken(client: TestClient) -> None:
    body = b'{"question": "a"}'
    assert submit_raw(client, body + b" " * (MAX_BODY_BYTES - len(body))).status_code == 201
    refused(submit_raw(client, body + b" " * (MAX_BODY_BYTES - len(body) + 1)), 413, "body_too_large")


# --- what is not there ----------------------------------------------------------------------------------------------

PATHS_WITH_ID = [
    ("GET", "/v1/problems/{}"),
    ("GET", "/v1/problems/{}?wait_s=30"),
    ("POST", "/v1/problems/{}/cancel"),
    *(("GET", f"/v1/problems/{{}}/{name}") for name in SUBRESOURCES),
    ("GET", "/v1/batches/{}"),
    ("GET", "/v1/batches/{}/problems"),
]


@pytest.mark.parametrize(("method", "path"), PATHS_WITH_ID)
def test_an_unknown_id_is_not_found(client: TestClient, method: str, path: str) -> None:
    refused(client.request(method, path.format(UNKNOWN_ID)), 404, "not_found")


@pytest.mark.parametrize(("method", "path"), PATHS_WITH_ID)
@pytest.mark.parametrize("bad_id", ["7", "%00", UNKNOWN_ID + "0", "x" * 500])
def test_a_malformed_id_is_refused(client: TestClient, method: str, path: str, bad_id: str) -> None:
    refused(client.request(method, path.format(bad_id)), 422, "invalid_request")


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/problems", f"/v1/problems/{UNKNOWN_ID}/secrets", "/docs", "/%ff"])
def test_an_unknown_path_is_not_found(client: TestClient, path: str) -> None:
    refused(client.get(path), 404, "no_such_path")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/v1/problems"),
        ("PUT", f"/v1/problems/{UNKNOWN_ID}"),
        ("GET", f"/v1/problems/{UNKNOWN_ID}/cancel"),
        ("POST", "/health/ready"),
        ("PATCH", "/v1/policies"),
    ],
)
def test_a_wrong_method_is_refused_with_those_that_are_right(client: TestClient, method: str, path: str) -> None:
    response = client.request(method, path)
    refused(response, 405, "method_not_allowed")
    assert response.headers["Allow"]


# --- requests and their ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/problems", "/v1/nothing", "/health/live"])
@pytest.mark.parametrize("given", ["a", "A-b_c.1", "x" * 64])
def test_a_sane_request_id_is_taken_over(client: TestClient, path: str, given: str) -> None:
    response = client.get(path, headers={"X-Request-ID": given})
    assert response.headers.get_list("X-Request-ID") == [given]


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "é", "a\tb", "<script>", "{}", "a;b"])
def test_an_insane_request_id_is_replaced(client: TestClient, given: str) -> None:
    response = client.get("/v1/nothing", headers=[("X-Request-ID", given.encode("latin-1"))])
    drawn = refused(response, 404, "no_such_path")["request_id"]
    assert drawn != given
    assert re.fullmatch(r"[0-9a-f]{32}", drawn)


def test_every_request_gets_an_id_of_its_own(client: TestClient) -> None:
    assert len({client.get("/health/live").headers["X-Request-ID"] for _ in range(5)}) == 5


# --- failures inside ------------------------------------------------------------------------------------------------


class BrokenDatabase(Database):
    """Fails in a way that nobody foresaw."""

    @contextmanager
    def session(self) -> Iterator[Session]:
        raise RuntimeError("sesame is in this message")
        yield


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/problems", {"question": "One?"}),
        ("POST", "/v1/batches", {"problems": [{"question": "One?"}]}),
        ("GET", "/v1/problems", None),
        ("GET", f"/v1/problems/{UNKNOWN_ID}", None),
    ],
)
def test_a_crash_is_answered_without_details(method: str, path: str, body: object, closed_port: int) -> None:
    url = f"postgresql://somebody@127.0.0.1:{closed_port}/nothing"
    with closing(BrokenDatabase(url)) as database, serve(database) as client:
        response = client.request(method, path, json=body, headers={"X-Request-ID": "crash-1"})
    error = refused(response, 500, "internal")
    assert error["request_id"] == "crash-1"
    assert "RuntimeError" not in response.text


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/problems", {"question": "One?"}),
        ("POST", "/v1/batches", {"problems": [{"question": "One?"}]}),
        ("POST", f"/v1/problems/{UNKNOWN_ID}/cancel", None),
        ("GET", "/v1/problems", None),
        ("GET", f"/v1/problems/{UNKNOWN_ID}?wait_s=30", None),
        ("GET", f"/v1/batches/{UNKNOWN_ID}", None),
    ],
)
def test_without_a_database_clients_are_told_to_come_back(
    client_without_database: TestClient, method: str, path: str, body: object
) -> None:
    response = client_without_database.request(method, path, json=body)
    refused(response, 503, "database_unavailable")
    assert int(response.headers["Retry-After"]) > 0


def test_a_bad_submission_is_refused_even_without_a_database(client_without_database: TestClient) -> None:
    refused(client_without_database.post("/v1/problems", json={"question": ""}), 422, "invalid_request")


def test_a_database_that_goes_away_during_a_submission_leaves_nothing_behind(
    client: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = problem_endpoints.submit_problem

    def submit_and_die(session: Session, *args: Any, **kwargs: Any) -> Any:
        original(session, *args, **kwargs)
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    headers = {"Idempotency-Key": "once"}
    with monkeypatch.context() as patched:
        patched.setattr(problem_endpoints, "submit_problem", submit_and_die)
        response = client.post("/v1/problems", json={"question": "One?"}, headers=headers)
    refused(response, 503, "database_unavailable")
    assert int(response.headers["Retry-After"]) > 0
    assert count(database, "problems") == 0
    assert client.post("/v1/problems", json={"question": "One?"}, headers=headers).status_code == 201
    assert count(database, "problems") == 1
