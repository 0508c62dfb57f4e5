"""Listings: their order, their pages, their filters."""

from __future__ import annotations

import base64
from uuid import uuid4

import pytest
from starlette.testclient import TestClient

from shared.store.database import Database
from tests.integration.api.calls import change, is_refusal, submit, submit_batch, turn_pages, wrong_fields

pytestmark = pytest.mark.servers


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
