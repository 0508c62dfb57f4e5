"""Calls, rows and checks that the tests of the API share."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx2
from sqlalchemy import insert, text, update
from starlette.testclient import TestClient

from shared.settings import Settings
from shared.store.database import Database
from shared.store.tables import DecisionRow, Problem, StepRow

SETTINGS = Settings(max_body_bytes=100_000, max_question_chars=500, max_batch_size=5, heartbeat_s=5)
QUESTION = {"question": "What is 6 times 7?"}
JSON = {"Content-Type": "application/json"}
PATIENCE_S = 240.0


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
    """Change a problem's row as an orchestrator would."""
    with database.session() as session:
        session.execute(update(Problem).where(Problem.id == UUID(problem_id)).values(**values))


def add_step(
    database: Database, problem_id: str, step: int, *, author: str = "small", model: str = "small-model"
) -> None:
    """Add a step and the decision that led to it, every column filled."""
    with database.session() as session:
        session.execute(
            insert(StepRow).values(
                problem_id=UUID(problem_id), step=step, author=author, text=f"Step {step}.", finish="separator",
                tokens=4, score=0.75, model=model, worker=f"{author}-0", waited_ms=1.5, worked_ms=20.25,
                accepted_at=datetime.now(UTC),
            )
        )  # fmt: skip
    add_decision(database, problem_id, number=step, step=step, action="escalate" if author == "large" else "accept")


def add_decision(database: Database, problem_id: str, **values: Any) -> None:
    """Add a decision, every column filled unless `values` change it."""
    step = values["step"]
    observation = {
        "step": step, "score": 0.25, "previous_scores": [0.5, None, 0.75][:step],
        "previous_authors": ["small", "large", "small"][:step], "previous_tokens": [4, 3, 4][:step],
        "draft_tokens": 5, "is_final": False, "large_out": 3, "seed": 2**53, "question_digest": "0123456789abcdef",
        "following_scores": [0.875],
    }  # fmt: skip
    row = {
        "problem_id": UUID(problem_id), "epoch": 0, "decided_at": datetime.now(UTC), "decided_by": "policy",
        "policy": "threshold", "policy_revision": 2, "policy_digest": "fedcba9876543210", "action": "escalate",
        "reason": "score_below_threshold", "value": 0.25, "compared_with": 0.5, "observation": observation,
        "numbers": {"belief": 0.125}, "propensity": 0.75,
        "draft_id": uuid4(), "draft_text": f"Draft {step}.", "draft_finish": "separator", "draft_tokens": 5,
        "draft_prefix_digest": "00112233445566ff", "draft_prompt_tokens": 11, "draft_cached_tokens": 6,
        "draft_model": "small-model", "draft_worker": "small-0", "draft_waited_ms": 0.5, "draft_worked_ms": 12.5,
        "prm_model": "prm-model", "prm_worker": "prm-0", "prm_tokens": 17, "prm_waited_ms": 0.25, "prm_worked_ms": 2.5,
        "draft_estimated_tokens": 2, "prm_estimated_tokens": 3,
    }  # fmt: skip
    with database.session() as session:
        session.execute(insert(DecisionRow).values(row | values))


def is_refusal(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """Check that a response is a complete problem+json, and return it."""
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
    """Return the names of the fields that a request was refused for."""
    return " ".join(error["field"] for error in is_refusal(response, 422, code)["errors"])


def until(holds: Callable[[], bool]) -> None:
    """Wait until another thread or process makes the condition hold."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.01)


def is_blocked(database: Database) -> bool:
    """Tell whether a statement in this database waits for another transaction."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with database.session() as session:
        return bool(session.scalar(query))


def get(api: TestClient, path: str, **query: Any) -> httpx2.Response:
    """Send a GET request; the query is added to the one in the path, if any."""
    return api.get(str(httpx2.URL(path).copy_merge_params(query)))


def read_pages(
    api: TestClient, path: str, between: Callable[[], object] = lambda: None, **query: Any
) -> list[dict[str, Any]]:
    """Read all pages of a listing."""
    items: list[dict[str, Any]] = []
    cursor = None
    while True:
        response = get(api, path, **query, **({"cursor": cursor} if cursor else {}))
        assert response.status_code == 200, response.text
        page = response.json()
        assert len(page["items"]) <= query.get("limit", 200)
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return items
        between()


def read_ids(api: TestClient, path: str, between: Callable[[], object] = lambda: None, **query: Any) -> list[str]:
    """Read all pages of a listing, and return the ids."""
    return [each["id"] for each in read_pages(api, path, between, **query)]
