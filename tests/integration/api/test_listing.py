"""Listings: their order, their pages, their cursors, their filters."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from uuid import uuid4

import pytest
from starlette.testclient import TestClient

from shared.store.database import Database
from tests.integration.api.calls import (
    add_decision,
    add_step,
    change,
    get,
    is_refusal,
    read_ids,
    read_pages,
    submit,
    submit_batch,
    wrong_fields,
)

pytestmark = pytest.mark.servers

RECORDS = ("steps", "decisions", "audit")
SOME_ID = "00000000-0000-4000-8000-000000000000"


def as_cursor(place: object) -> str:
    """Encode a place as a listing does."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


@pytest.fixture(scope="module")
def listings(app: object, database: Database) -> Mapping[str, str]:
    """Paths of one listing of each kind, all with at least two items, by what they list."""
    api = TestClient(app)  # type: ignore[arg-type]
    batch, problem = submit_batch(api, 3), submit(api)
    for step in range(3):
        add_step(database, problem["id"], step)
    return {
        "problems": "/v1/problems",
        "problems of a batch": f"/v1/problems?batch_id={batch['id']}",
        "batch": f"/v1/batches/{batch['id']}/problems",
        **{name: f"/v1/problems/{problem['id']}/{name}" for name in RECORDS},
    }


def test_pages_are_complete_without_doubles_while_problems_arrive(api: TestClient) -> None:
    made = [submit(api)["id"] for _ in range(4)] + submit_batch(api, 5)["problem_ids"]
    read = read_ids(api, "/v1/problems", lambda: submit(api), limit=2)
    assert len(read) == len(set(read))
    assert [each for each in read if each in made] == made[::-1], "newest first"


@pytest.mark.parametrize("limit", [1, 2, 5, 200])
def test_a_batch_lists_its_problems_in_order_of_submission(api: TestClient, limit: int) -> None:
    batch = submit_batch(api, 5)
    assert read_ids(api, f"/v1/batches/{batch['id']}/problems", limit=limit) == batch["problem_ids"]
    assert read_ids(api, "/v1/problems", batch_id=batch["id"], limit=limit) == batch["problem_ids"][::-1]


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("limit", [1, 2, 5, 200])
def test_a_record_is_listed_in_order_however_it_is_paged(
    api: TestClient, database: Database, name: str, limit: int
) -> None:
    problem = submit(api)
    for step in range(5):
        add_step(database, problem["id"], step)
    items = read_pages(api, f"/v1/problems/{problem['id']}/{name}", limit=limit)
    assert [each.get("decision", each)["step"] for each in items] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["decisions", "audit"])
def test_a_page_may_end_between_two_decisions_on_one_step(api: TestClient, database: Database, name: str) -> None:
    problem = submit(api)
    for number, step in enumerate([0, 1, 1, 1, 2]):
        add_decision(database, problem["id"], number=number, step=step)
    items = read_pages(api, f"/v1/problems/{problem['id']}/{name}", limit=2)
    decisions = [each.get("decision", each) for each in items]
    assert [(each["number"], each["step"]) for each in decisions] == [(0, 0), (1, 1), (2, 1), (3, 1), (4, 2)]


@pytest.mark.parametrize("name", RECORDS)
def test_the_record_of_a_new_problem_is_one_empty_page(api: TestClient, name: str) -> None:
    assert api.get(f"/v1/problems/{submit(api)['id']}/{name}").json() == {"items": [], "next_cursor": None}


def test_a_listing_refuses_the_cursor_of_every_other_listing(
    api: TestClient, database: Database, listings: Mapping[str, str]
) -> None:
    other_batch, other_problem = submit_batch(api, 3), submit(api)
    for step in range(3):
        add_step(database, other_problem["id"], step)
    paths = [
        *listings.values(),
        f"/v1/problems?batch_id={other_batch['id']}",
        f"/v1/batches/{other_batch['id']}/problems",
        *(f"/v1/problems/{other_problem['id']}/{name}" for name in RECORDS),
    ]
    for giver in paths:
        cursor = get(api, giver, limit=1).json()["next_cursor"]
        for taker in paths:
            response = get(api, taker, limit=1, cursor=cursor)
            if giver == taker:
                assert response.status_code == 200, response.text
                assert len(response.json()["items"]) == 1
            else:
                is_refusal(response, 422, "bad_cursor")


def test_listings_are_filtered_by_status_policy_and_batch(api: TestClient, database: Database) -> None:
    batch = submit_batch(api, 3, policy={"name": "small-only"})
    other = submit_batch(api, 1)
    change(database, batch["problem_ids"][1], status="expired")
    assert read_ids(api, "/v1/problems", status="expired", batch_id=batch["id"]) == [batch["problem_ids"][1]]
    assert set(batch["problem_ids"]) <= set(read_ids(api, "/v1/problems", policy="small-only"))
    assert not set(other["problem_ids"]) & set(read_ids(api, "/v1/problems", policy="small-only"))
    assert read_ids(api, "/v1/problems", batch_id=str(uuid4())) == []


@pytest.mark.parametrize("query", ["status=done", "status=", "batch_id=1", "policy=%00", "policy=A", "policy="])
def test_a_wrong_filter_is_refused_by_its_name(api: TestClient, query: str) -> None:
    assert query.partition("=")[0] in wrong_fields(api.get(f"/v1/problems?{query}"))


@pytest.mark.parametrize("name", ["problems", "batch", *RECORDS])
@pytest.mark.parametrize("limit", ["0", "201", "-1", "many", "", str(10**30)])
def test_a_limit_out_of_bounds_is_refused(api: TestClient, listings: Mapping[str, str], name: str, limit: str) -> None:
    assert "limit" in wrong_fields(get(api, listings[name], limit=limit))


@pytest.mark.parametrize("name", ["problems", "problems of a batch", "batch", *RECORDS])
@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "\x00",
        "\N{ABACUS}",
        "bm90IGEgY3Vyc29y",
        as_cursor(1),
        as_cursor([]),
        as_cursor({"problems": 1}),
        as_cursor([1, 2]),
        as_cursor(["problems"]),
        as_cursor(["problems", "x"]),
        as_cursor(["problems", 1]),
        as_cursor(["problems", None]),
        as_cursor(["problems", SOME_ID, SOME_ID]),
        as_cursor([f"batch {SOME_ID}", 0]),
        as_cursor([f"steps {SOME_ID}", 0]),
        "[" * 500,
    ],
)
def test_a_cursor_that_no_listing_issued_is_refused(
    api: TestClient, listings: Mapping[str, str], name: str, cursor: str
) -> None:
    is_refusal(get(api, listings[name], cursor=cursor), 422, "bad_cursor")


@pytest.mark.parametrize("name", ["problems of a batch", "batch", *RECORDS])
@pytest.mark.parametrize("place", [[], ["0"], [0.0], [None], [True], [2**31], [-(10**30)], [0, 0]])
def test_a_cursor_with_an_impossible_place_is_refused(
    api: TestClient, listings: Mapping[str, str], name: str, place: list[object]
) -> None:
    issued = get(api, listings[name], limit=1).json()["next_cursor"]
    listing, _ = json.loads(base64.urlsafe_b64decode(issued))
    assert get(api, listings[name], cursor=as_cursor([listing, 0])).status_code == 200
    is_refusal(get(api, listings[name], cursor=as_cursor([listing, *place])), 422, "bad_cursor")


@pytest.mark.parametrize("name", ["problems", "batch", *RECORDS])
def test_a_cursor_that_is_too_long_is_refused(api: TestClient, listings: Mapping[str, str], name: str) -> None:
    assert "cursor" in wrong_fields(get(api, listings[name], cursor="A" * 501))


def test_the_description_names_the_order_of_each_listing(api: TestClient) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    assert "newest first" in paths["/v1/problems"]["get"]["description"]
    assert "order of submission" in paths["/v1/batches/{batch_id}/problems"]["get"]["description"]
