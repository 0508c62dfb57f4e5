"""What the API counts: requests by route, and problems that were queued."""

from __future__ import annotations

from unittest.mock import Mock
from uuid import uuid4

import pytest
from starlette.testclient import TestClient

from shared.observe import metrics
from tests.integration.api.calls import QUESTION, submit, submit_batch
from tests.scraping import Scrape

pytestmark = pytest.mark.servers


def scrape() -> Scrape:
    return Scrape.here(*metrics.API.metrics)


@pytest.fixture
def before() -> Scrape:
    return scrape()


def test_requests_are_counted_by_method_route_and_status_without_ids(before: Scrape, api: TestClient) -> None:
    made = submit(api)
    for problem_id in (made["id"], made["id"], uuid4()):
        api.get(f"/v1/problems/{problem_id}")
    api.post("/v1/problems", json={})
    api.get("/v1/nothing/here")
    api.request("BREW", "/v1/problems")
    counted = scrape().since(before)
    assert counted.by("trim_http_requests_total", "method", "route", "status") == {
        ("POST", "/v1/problems", "201"): 1,
        ("POST", "/v1/problems", "422"): 1,
        ("GET", "/v1/problems/{problem_id}", "200"): 2,
        ("GET", "/v1/problems/{problem_id}", "404"): 1,
        ("GET", "other", "404"): 1,
        ("other", "/v1/problems", "405"): 1,
    }
    assert counted.sum("trim_http_request_seconds_count") == 7


def test_a_request_that_waits_is_counted_and_not_measured(before: Scrape, api: TestClient) -> None:
    problem_id = submit(api)["id"]
    api.get(f"/v1/problems/{problem_id}", params={"wait_s": 0.01})
    counted = scrape().since(before)
    route = "/v1/problems/{problem_id}"
    assert counted.sum("trim_http_requests_total", route=route) == 1
    assert counted.sum("trim_http_request_seconds_count", route=route) == 0


def test_a_request_that_breaks_the_service_counts_with_status_500(
    before: Scrape, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.api.native.batches.batches.read_batch", Mock(side_effect=ZeroDivisionError))
    assert api.get(f"/v1/batches/{uuid4()}").status_code == 500
    counted = scrape().since(before)
    assert counted.by("trim_http_requests_total", "route", "status") == {("/v1/batches/{batch_id}", "500"): 1}


def test_submitted_problems_are_counted_by_policy_and_a_repeated_request_counts_none(
    before: Scrape, api: TestClient
) -> None:
    submit(api, policy={"name": "large-only"})
    split = [{"name": name, "policy": {"name": name}} for name in ("small-only", "large-only")]
    batch = submit_batch(api, 5, split=split)
    for _ in range(3):
        api.post("/v1/problems", json=QUESTION, headers={"Idempotency-Key": "once"})
    api.post("/v1/problems", json=QUESTION | {"policy": {"name": "unknown"}})
    drawn = [api.get(f"/v1/problems/{each}").json()["policy"]["name"] for each in batch["problem_ids"]]  # by lot
    counted = scrape().since(before).by("trim_problems_submitted_total", "policy")
    assert counted.pop("threshold") == 1
    assert counted == {
        name: count for name in ("small-only", "large-only") if (count := drawn.count(name) + (name == "large-only"))
    }
