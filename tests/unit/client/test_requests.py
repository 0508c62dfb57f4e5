"""What both clients send, when they send it again, and how they read listings."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import pytest

from tests.unit.client import samples
from tests.unit.client.samples import BATCH_ID, PROBLEM_ID
from tests.unit.client.service import ADDRESS, Service, answer, page
from trim_client import Client, RateLimited, TrimClientError, Unavailable, Unreachable

LOST = [
    httpx2.ConnectError("refused"), httpx2.ReadTimeout("late"), httpx2.RemoteProtocolError("disconnected"),
    httpx2.WriteError("reset"),
]  # fmt: skip


def submit(client: Any) -> Any:
    return client.problems.submit("What is 6 times 7?", reference=42, policy="threshold:threshold=0.7", lookahead=2)


def test_a_submission_is_sent_as_the_api_takes_it(service: Service) -> None:
    service.answers(answer(samples.problem(), 201))
    assert service.call(submit, api_key="secret").id == PROBLEM_ID
    [request] = service.requests
    assert (request.method, str(request.url)) == ("POST", f"{ADDRESS}/v1/problems")
    assert json.loads(request.content) == {
        "question": "What is 6 times 7?",
        "reference": 42,
        "policy": {"name": "threshold", "parameters": {"threshold": 0.7}},
        "lookahead": 2,
    }
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["user-agent"].startswith("trim-client/")


@pytest.mark.parametrize("status", [408, 425, 429, 502, 503, 504])
def test_a_submission_that_fails_for_now_is_sent_again_with_the_same_key_and_body(
    service: Service, status: int
) -> None:
    refused = answer(samples.refusal(status, "unavailable"), status)
    service.answers(refused, *LOST, answer(samples.problem(), 200))
    assert service.call(submit, max_retries=5).id == PROBLEM_ID
    keys = {request.headers["idempotency-key"] for request in service.requests}
    assert (len(service.requests), len(keys), len({request.content for request in service.requests})) == (6, 1, 1)
    assert len(service.sleeps) == 5
    assert all(
        0.5 * longest <= pause <= longest for pause, longest in zip(service.sleeps, (0.5, 1, 2, 4, 8), strict=True)
    )


def test_two_submissions_have_different_keys_and_a_key_of_the_caller_is_kept(service: Service) -> None:
    service.answers(*(answer(samples.problem(), 201) for _ in range(3)))
    for use in (submit, submit, lambda client: client.problems.submit("What?", idempotency_key="mine")):
        service.call(use)
    first, second, third = (request.headers["idempotency-key"] for request in service.requests)
    assert first != second
    assert third == "mine"


@pytest.mark.parametrize("asked", ["7", "date"])
def test_a_retry_comes_not_before_the_time_that_the_service_asks_for(service: Service, asked: str) -> None:
    if asked == "date":
        asked = format_datetime(datetime.now(UTC) + timedelta(seconds=8), usegmt=True)
    service.answers(answer(samples.refusal(503, "unavailable"), 503, Retry_After=asked), answer(samples.problem(), 201))
    service.call(submit)
    assert 6 < service.sleeps[0] < 9


@pytest.mark.parametrize("asked", ["soon", "-1", "nan", "Wed, 32 Oct"])
def test_a_time_that_cannot_be_read_is_ignored(service: Service, asked: str) -> None:
    service.answers(answer(samples.refusal(503, "unavailable"), 503, Retry_After=asked), answer(samples.problem(), 201))
    service.call(submit)
    assert 0.25 <= service.sleeps[0] <= 0.5


def test_a_service_that_asks_to_wait_for_long_is_the_callers_to_wait_for(service: Service) -> None:
    service.answers(answer(samples.refusal(429, "rate_limited"), 429, Retry_After="3600"))
    with pytest.raises(RateLimited) as limited:
        service.call(submit)
    assert limited.value.retry_after_s == 3600
    assert service.sleeps == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500])
def test_other_refusals_are_not_sent_again(service: Service, status: int) -> None:
    service.answers(answer(samples.refusal(status, "invalid_request"), status))
    with pytest.raises(TrimClientError):
        service.call(submit)
    assert len(service.requests) == 1


def test_what_fails_too_often_is_the_last_error(service: Service) -> None:
    service.answers(LOST[0], answer("Bad gateway", 502))
    with pytest.raises(Unavailable, match=r"Bad gateway \[502\]"):
        service.call(submit, max_retries=1)
    service.answers(answer("Bad gateway", 502), LOST[0])
    with pytest.raises(Unreachable, match=rf"^No service answers at {ADDRESS} \(ConnectError\)\.$"):
        service.call(submit, max_retries=1)


def test_a_batch_is_submitted_with_defaults_and_tells_whether_it_is_new(service: Service) -> None:
    body = samples.batch() | {"problem_ids": [str(PROBLEM_ID)]}
    service.answers(answer(body, 201), answer(body, 200))

    def submit_batch(client: Any) -> Any:
        problems = ["What?", {"question": "Who?", "policy": "small-only"}]
        return client.batches.submit(problems, idempotency_key="k", on_error="skip", policy="pomdp@3:budget=300")

    made = [service.call(submit_batch) for _ in range(2)]
    assert [each.was_submitted_before for each in made] == [False, True]
    assert made[0].problem_ids == [PROBLEM_ID]
    assert service.requests[0].url.params["on_error"] == "skip"
    assert json.loads(service.requests[0].content) == {
        "problems": [{"question": "What?"}, {"question": "Who?", "policy": {"name": "small-only", "parameters": {}}}],
        "defaults": {"policy": {"name": "pomdp", "parameters": {}, "wrappers": {"budget": 300}, "version": 3}},
    }


def test_a_listing_is_read_page_by_page_up_to_the_limit(service: Service) -> None:
    service.answers(page([samples.problem()] * 2, "next"), page([samples.problem()], None))
    conditions = {
        "status": ["queued", "running"],
        "batch_id": BATCH_ID,
        "escalated": True,
        "created_after": samples.NOW,
    }
    found = service.call(lambda client: client.problems.list(**conditions, policy=None))
    assert [each.id for each in found] == [PROBLEM_ID] * 3
    since = "created_after=2026-12-01T12%3A00%3A00%2B00%3A00"
    asked = f"status=queued&status=running&batch_id={BATCH_ID}&escalated=true&{since}"
    assert [request.url.query.decode() for request in service.requests] == [
        f"{asked}&limit=200",
        f"{asked}&cursor=next&limit=200",
    ]
    service.answers(page([samples.step(0), samples.step(1)], "next"), page([samples.step(2)], "more"))
    assert [each.step for each in service.call(lambda client: client.problems.steps(PROBLEM_ID, limit=3))] == [0, 1, 2]
    assert [request.url.params["limit"] for request in service.requests[2:]] == ["3", "1"]
    assert service.call(lambda client: client.problems.decisions(PROBLEM_ID, limit=0)) == []


def test_pages_are_requested_only_as_items_are_used() -> None:
    service = Service(is_async=False, sleeps=[])
    service.answers(page([samples.batch()], "next"))
    with Client(ADDRESS, transport=httpx2.MockTransport(service.handle)) as client:
        assert next(client.batches.list()).id == BATCH_ID
    assert len(service.requests) == 1


CARD = {"policy": "pomdp"}
VERSION = {
    "policy": "pomdp", "version": 3, "digest": "00", "models": {"small": "s", "large": "l", "prm": "p"}, "card": CARD,
    "is_default": True, "registered_at": samples.NOW.isoformat(), "retired_at": None,
}  # fmt: skip
PATHS = [
    ("GET /v1/problems/ID", samples.problem(), lambda client: client.problems.get(PROBLEM_ID)),
    ("POST /v1/problems/ID/cancel", samples.problem(), lambda client: client.problems.cancel(str(PROBLEM_ID))),
    ("GET /v1/problems/ID/decisions", [samples.decision()], lambda client: client.problems.decisions(PROBLEM_ID)),
    ("GET /v1/problems/ID/audit", [], lambda client: client.problems.audit(PROBLEM_ID)),
    ("GET /v1/batches", [samples.batch()], lambda client: client.batches.list()),
    ("GET /v1/batches/BATCH", samples.batch(), lambda client: client.batches.get(BATCH_ID)),
    ("GET /v1/batches/BATCH/problems", [samples.problem()], lambda client: client.batches.problems(BATCH_ID)),
    ("POST /v1/batches/BATCH/cancel", samples.batch(), lambda client: client.batches.cancel(BATCH_ID)),
    ("GET /v1/policies/a%2Fb/default", VERSION, lambda client: client.policies.default("a/b")),
    ("GET /v1/policies/pomdp/versions", [VERSION], lambda client: client.policies.versions("pomdp", is_default=True)),
    ("POST /v1/policies/pomdp/versions", VERSION, lambda client: client.policies.register("pomdp", CARD, b"npz")),
    ("GET /v1/policies/pomdp/versions/3", VERSION, lambda client: client.policies.version("pomdp", 3)),
    ("POST /v1/policies/pomdp/versions/3/default", VERSION, lambda client: client.policies.make_default("pomdp", 3)),
    ("POST /v1/policies/pomdp/versions/3/retire", VERSION, lambda client: client.policies.retire("pomdp", 3)),
    ("GET /health/live", {"status": "live"}, lambda client: client.health.live()),
    ("GET /v2/later", {"a": 1}, lambda client: client.request("GET", "/v2/later")),
    ("GET /v2/list", [{"a": 1}], lambda client: client.items("/v2/list")),
]


@pytest.mark.parametrize(("line", "body", "use"), PATHS, ids=[line for line, *_ in PATHS])
def test_each_method_sends_one_request(service: Service, line: str, body: Any, use: Any) -> None:
    service.answers(page(body) if isinstance(body, list) else answer(body))
    service.call(use)
    [request] = service.requests
    path = line.replace("ID", str(PROBLEM_ID)).replace("BATCH", str(BATCH_ID)).replace(" ", " /api")
    assert f"{request.method} {request.url.raw_path.decode().partition('?')[0]}" == path


def test_policies_and_artefacts_are_read(service: Service) -> None:
    described = {"name": "pomdp", "revision": 1, "description": "", "parameters": {}, "has_versions": True}
    service.answers(answer([described]), answer({"card": CARD, "arrays": "bnB6"}))
    assert [each.name for each in service.call(lambda client: client.policies.list())] == ["pomdp"]
    assert service.call(lambda client: client.policies.artefact("pomdp", 3)).npz == b"npz"


def test_a_service_that_refuses_submissions_shows_its_health_all_the_same(service: Service) -> None:
    service.answers(answer({"status": "unavailable", "down": ["database"], "parts": []}, 503))
    found = service.call(lambda client: client.health.ready())
    assert (found.accepts_submissions, found.down) == (False, ["database"])
    service.answers(answer(samples.refusal(503, "unavailable"), 503))
    with pytest.raises(Unavailable):
        service.call(lambda client: client.health.ready(), max_retries=0)


@pytest.mark.parametrize("wrong", ["../policies", "", "42"])
def test_what_is_no_id_is_sent_nowhere(service: Service, wrong: str) -> None:
    with pytest.raises(ValueError, match="is no id such as"):
        service.call(lambda client: client.problems.get(wrong))
    assert service.requests == []
