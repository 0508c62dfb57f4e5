"""Listings: their order, their pages, their filters."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from starlette.testclient import TestClient

from shared.store.database import Database
from tests.integration.api.calls import change, is_refusal, submit, submit_batch, turn_pages, wrong_fields

pytestmark = pytest.mark.servers

SOME_ID = "00000000-0000-4000-8000-000000000000"


def as_cursor(place: object) -> str:
    """Write what a listing might have written."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def test_pages_are_complete_without_doubles_while_problems_arrive(api: TestClient) -> None:
    made = [submit(api)["id"] for _ in range(4)] + submit_batch(api, 5)["problem_ids"]
    found = turn_pages(api, "/v1/problems", lambda: submit(api), limit=2)
    assert len(found) == len(set(found))
    assert set(made) <= set(found)
    assert [each for each in found if each in made[:4]] == made[3::-1], "newest first"


@pytest.mark.parametrize("limit", [1, 2, 5, 200])
def test_a_batch_lists_its_problems_in_the_order_of_their_submission(api: TestClient, limit: int) -> None:
    batch = submit_batch(api, 5)
    assert turn_pages(api, f"/v1/batches/{batch['id']}/problems", limit=limit) == batch["problem_ids"]


def test_problems_of_one_moment_are_listed_by_their_places_in_their_batch(api: TestClient, database: Database) -> None:
    batch, alone, other = submit_batch(api, 5), [submit(api)["id"] for _ in range(3)], submit_batch(api, 2)
    # Nothing forbids two transactions in one microsecond: the order is total then, too.
    made = [*batch["problem_ids"], *alone, *other["problem_ids"]]
    for each in made:
        change(database, each, created_at=datetime(2020, 1, 1, tzinfo=UTC))
    shared = [sorted((batch["problem_ids"][index], other["problem_ids"][index]), reverse=True) for index in (1, 0)]
    expected = [*batch["problem_ids"][:1:-1], *shared[0], *shared[1], *sorted(alone, reverse=True)]
    for limit in (1, 2, 3, 200):
        found = turn_pages(api, "/v1/problems", limit=limit)
        assert found[-len(made) :] == expected, "older than all others"
        assert len(found) == len(set(found))
        filtered = turn_pages(api, "/v1/problems", batch_id=batch["id"], limit=limit)
        assert filtered == batch["problem_ids"][::-1], "the same order"


def test_a_listing_refuses_the_cursor_of_another(api: TestClient) -> None:
    one, other = submit_batch(api, 3), submit_batch(api, 3)
    paths = ["/v1/problems", f"/v1/batches/{one['id']}/problems", f"/v1/batches/{other['id']}/problems"]
    for giver in paths:
        cursor = api.get(giver, params={"limit": 1}).json()["next_cursor"]
        for taker in paths:
            response = api.get(taker, params={"limit": 1, "cursor": cursor})
            if giver == taker:
                assert response.status_code == 200
            else:
                is_refusal(response, 422, "bad_cursor")


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
        as_cursor(1),
        as_cursor([]),
        as_cursor({"problems": 1}),
        as_cursor([1, 2]),
        as_cursor(["2026-01-01T00:00:00+00:00", SOME_ID]),
        as_cursor(["problems"]),
        as_cursor(["problems", "2026-01-01T00:00:00+00:00", 0, "x"]),
        as_cursor(["problems", "2026-01-01T00:00:00+00:00", 0, 1]),
        as_cursor(["problems", "2026-01-01T00:00:00+00:00", "0", SOME_ID]),
        as_cursor(["problems", "2026-01-01T00:00:00+00:00", 0.5, SOME_ID]),
        as_cursor(["problems", "2026-01-01T00:00:00+00:00", True, SOME_ID]),
        as_cursor(["problems", "2026-01-01T00:00:00+00:00", None, SOME_ID]),
        as_cursor(["problems", "2026-01-01T00:00:00+00:00", 2**31, SOME_ID]),
        as_cursor(["problems", "2026-01-01T00:00:00+00:00", -(10**30), SOME_ID]),
        as_cursor(["problems", "2026-01-01", 0, SOME_ID]),
        as_cursor(["problems", "0001-01-01T00:00:00+23:59", 0, SOME_ID]),
        as_cursor(["problems", "9999-12-31T23:59:59-23:59", 0, SOME_ID]),
        as_cursor([f"batch {SOME_ID}", 0]),
        "[" * 500,
        "A" * 10_000,
    ],
)
def test_a_cursor_that_no_listing_gave_is_refused(api: TestClient, cursor: str) -> None:
    for path in ("/v1/problems", f"/v1/batches/{submit_batch(api, 1)['id']}/problems"):
        response = api.get(f"{path}?cursor={cursor}")
        is_refusal(response, 422, response.json()["code"])
        assert response.json()["code"] in ("bad_cursor", "invalid_request")


@pytest.mark.parametrize("place", [[], ["0"], [0.0], [None], [True], [2**31], [10**30], [0, 0]])
def test_a_cursor_with_a_place_that_no_batch_has_is_refused(api: TestClient, place: list[object]) -> None:
    batch = submit_batch(api, 1)
    cursor = as_cursor([f"batch {batch['id']}", *place])
    is_refusal(api.get(f"/v1/batches/{batch['id']}/problems?cursor={cursor}"), 422, "bad_cursor")


def test_the_documentation_tells_the_order_of_each_listing(api: TestClient) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    assert "newest first" in paths["/v1/problems"]["get"]["description"]
    assert "order of their submission" in paths["/v1/batches/{batch_id}/problems"]["get"]["description"]
