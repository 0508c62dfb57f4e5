"""The record as auditors meet it over REST: real events made it, and nobody can change it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.orm import Session

import services.api.native.problems as problem_endpoints
from services.api.app import create_app
from shared.domain.drafts import Draft, Finish, Scoring
from shared.domain.text import prefix_digest
from shared.machine.commands import next_commands
from shared.machine.state import ControlEvent, ProblemAdmitted, State
from shared.machine.transitions import apply
from shared.messages import GenerateSteps, ProblemEvent, StepsGenerated, StepsScored, derive_id
from shared.settings import Settings
from shared.store.database import Database
from shared.store.reasoning import lock_problems, save_states
from stack.scratch import scratch_database
from tests.world import make_draft

pytestmark = pytest.mark.servers

MAX_BODY_BYTES = 20_000

MAX_QUESTION_CHARS = 200

MAX_BATCH_SIZE = 5

HEARTBEAT_S = 60.0

SUBRESOURCES = ("steps", "decisions", "audit")


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


def count(database: Database, table: Literal["problems", "batches"]) -> int:
    with database.begin() as connection:
        found: int = connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
    return found


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
    if command.results_to == "events":
        return StepsGenerated(
            problem_id=command.problem_id, epoch=command.epoch, id=derive_id(command.id, "generated"), drafts=(draft,)
        )
    return StepsScored(
        problem_id=command.problem_id,
        epoch=command.epoch,
        id=derive_id(command.id, "scored"),
        drafts=(draft,),
        scores=(score,),
        prefix_scores=(unscored,) if command.unscored_steps else (),
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
    assert [
        (each["step"], each["action"], each["reason"], each["value"], each["compared_with"]) for each in decisions
    ] == [
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
