"""The feed of changes over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from shared.store.cursors import make_cursor
from tests.integration.api.calls import is_refusal, submit, submit_batch, until, wrong_fields

pytestmark = pytest.mark.servers


def test_changes_are_followed_by_the_cursor(api: TestClient) -> None:
    assert api.get("/v1/changes?start=now").json()["items"] == []
    made = [submit(api)["id"], *submit_batch(api, 2)["problem_ids"]]
    seen: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": 2}

    def has_seen_all() -> bool:
        page = api.get("/v1/changes", params=query).json()
        seen.extend(page["items"])
        query["cursor"] = page["next_cursor"]
        return len(seen) == len(made)

    until(has_seen_all)  # Transactions of other databases of the server hold the feed up, too.
    assert [each["problem_id"] for each in seen] == made
    assert {each["status"] for each in seen} == {"queued"}
    assert api.get(seen[0]["links"]["problem"]).json()["id"] == made[0]


def test_a_cursor_that_leads_nowhere_is_refused(api: TestClient) -> None:
    is_refusal(api.get("/v1/changes?cursor=x"), 422, "bad_cursor")
    old = make_cursor("changes", "1", "0", "2020-01-01T00:00:00+00:00")
    assert "without a cursor" in is_refusal(api.get(f"/v1/changes?cursor={old}"), 410, "cursor_expired")["detail"]
    assert wrong_fields(api.get("/v1/changes?start=yesterday")) == "query.start"
