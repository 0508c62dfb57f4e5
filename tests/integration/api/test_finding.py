"""Finding problems by conditions: each alone and together, and the pages where no index has a condition."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from starlette.testclient import TestClient

from shared.domain.status import Status
from shared.store.database import Database
from tests.integration.api.calls import change, get, read_ids, read_pages, submit, submit_batch, wrong_fields

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def batch(app: object, database: Database) -> list[str]:
    """Five problems of one batch, which ended in different ways, in the order of submission."""
    api = TestClient(app)  # type: ignore[arg-type]
    ids: list[str] = submit_batch(api, 5, policy={"name": "random"})["problem_ids"]
    now = datetime.now(UTC)
    ends: list[dict[str, Any]] = [
        {"status": "succeeded", "verdict": "correct", "stop_reason": "final_answer", "escalation_count": 2},
        {"status": "succeeded", "verdict": "incorrect", "stop_reason": "max_steps"},
        {"status": "failed", "verdict": "no_answer", "escalation_count": 1, "failure_code": "no_output"},
        {"status": "expired", "verdict": "unverified"},
    ]
    for each, end in zip(ids, ends, strict=False):
        change(database, each, finished_at=now, **end)
    return ids


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("verdict=correct", [0]),
        ("verdict=correct&escalated=false", []),
        ("escalated=true", [2, 0]),
        ("escalated=false", [4, 3, 1]),
        ("stop_reason=max_steps", [1]),
        ("stop_reason=max_steps&status=failed", []),
        ("stop_reason=final_answer&status=failed&status=succeeded", [0]),
        ("status=failed&status=expired", [3, 2]),
        ("status=failed&status=succeeded&verdict=no_answer", [2]),
        ("status=queued&status=queued", [4]),
        ("status=failed&status=succeeded&escalated=true", [2, 0]),
        ("&".join(f"status={each}" for each in Status), [4, 3, 2, 1, 0]),
    ],
)
@pytest.mark.parametrize("within", ["batch_id={batch_id}", "policy=random"])
@pytest.mark.parametrize("limit", [1, 50])
def test_problems_are_found_by_how_they_ended(  # noqa: PLR0917 - pytest passes arguments by name
    api: TestClient, batch: list[str], query: str, wanted: list[int], within: str, limit: int
) -> None:
    batch_id = api.get(f"/v1/problems/{batch[0]}").json()["batch_id"]
    path = f"/v1/problems?{query}&{within.format(batch_id=batch_id)}"
    assert read_ids(api, path, limit=limit) == [batch[index] for index in wanted]


def test_problems_are_found_by_the_time_of_their_submission(api: TestClient) -> None:
    early, middle, late = (submit(api, policy={"name": "small-only"})["id"] for _ in range(3))
    times = [datetime.fromtimestamp((UUID(each).int >> 80) / 1000, UTC) for each in (early, middle, late)]
    later = times[-1] + timedelta(milliseconds=1)

    def find(**query: Any) -> list[str]:
        return read_ids(api, "/v1/problems", policy="small-only", **query)

    assert set(find(created_after=times[0].isoformat())) >= {early, middle, late}
    assert find(created_after=later.isoformat()) == []
    assert not {early, middle, late} & set(find(created_before=times[0].isoformat()))
    within = find(created_after=times[0].isoformat(), created_before=later.isoformat(), limit=1)
    assert [each for each in within if each in (early, middle, late)] == [late, middle, early]
    assert find(created_after="9999-12-31T23:59:59Z") == find(created_before="1900-01-01T00:00:00Z") == []


def test_a_page_ends_where_it_has_looked_at_enough_problems(
    api: TestClient, batch: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.store.finding.LOOKED_AT", 2)
    seen: list[list[str]] = []
    query: dict[str, str] = {}
    while True:
        page = get(api, "/v1/problems?policy=random&verdict=correct", **query).json()
        seen.append([each["id"] for each in page["items"]])
        if page["next_cursor"] is None:
            break
        query = {"cursor": page["next_cursor"]}
    assert seen == [[], [], [batch[0]]]


def test_a_page_that_looked_at_enough_problems_repeats_none(
    api: TestClient, batch: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.store.finding.LOOKED_AT", 3)
    batch_id = api.get(f"/v1/problems/{batch[0]}").json()["batch_id"]
    for within in ("policy=random", f"batch_id={batch_id}"):
        found = [each["id"] for each in read_pages(api, f"/v1/problems?{within}&escalated=true", limit=2)]
        assert found == [batch[2], batch[0]]


@pytest.mark.parametrize(
    "query",
    [
        "verdict=right", "stop_reason=tired", "escalated=perhaps", "created_after=yesterday",
        "created_before=2026-11-30T12:00:00", "escalated=true&escalated=true",
    ],
)  # fmt: skip
def test_a_condition_that_makes_no_sense_is_refused_by_its_name(api: TestClient, query: str) -> None:
    assert query.partition("=")[0] in wrong_fields(api.get(f"/v1/problems?{query}"))
