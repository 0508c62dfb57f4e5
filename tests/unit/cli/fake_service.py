"""A service that answers the `trim` command in this process."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from tests.unit.client import samples
from tests.unit.client.service import answer, events
from trim_client import Client

Handler = Callable[[httpx2.Request], httpx2.Response | None]


class FakeService:
    """Answers by method and path; tests replace answers, and read the requests."""

    def __init__(self) -> None:
        problem = f"/v1/problems/{samples.PROBLEM_ID}"
        self.requests: list[httpx2.Request] = []
        self.answers: dict[str, Callable[[httpx2.Request], httpx2.Response]] = {
            "GET /health/ready": lambda _: answer({"status": "degraded", "down": ["prm"], "parts": []}),
            "POST /v1/problems": lambda _: answer(samples.problem("queued"), 201),
            f"GET {problem}": lambda _: answer(samples.problem("succeeded")),
            f"GET {problem}/steps": lambda _: answer({"items": [samples.step()], "next_cursor": None}),
            f"GET {problem}/decisions": lambda _: answer({"items": [samples.decision()], "next_cursor": None}),
            f"GET {problem}/events": lambda _: solved(),
            f"POST {problem}/cancel": lambda _: answer(samples.problem(cancel_requested_at=samples.NOW), 202),
            "GET /v1/problems": lambda _: answer({"items": [samples.problem("succeeded")], "next_cursor": None}),
            "GET /v1/batches": lambda _: answer(
                {"items": [samples.batch(2) | {"status": "ended"}], "next_cursor": None}
            ),
            f"GET /v1/batches/{samples.BATCH_ID}": lambda _: answer(samples.batch(2)),
            f"POST /v1/batches/{samples.BATCH_ID}/cancel": lambda _: answer(samples.batch(1), 202),
            "POST /v1/batches": submitted,
        }

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        """Answer a request."""
        request.read()
        self.requests.append(request)
        return self.answers[f"{request.method} {request.url.path}"](request)

    def bodies(self, line: str) -> list[Any]:
        """Return the bodies of requests, by their method and path."""
        return [json.loads(each.content) for each in self.requests if f"{each.method} {each.url.path}" == line]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have commands use this service."""
        client = functools.partial(Client, transport=httpx2.MockTransport(self.handle))
        monkeypatch.setattr("cli.service.Client", client)


def solved() -> httpx2.Response:
    """Return the events of a problem with a step that was kept, and one that was rewritten."""
    rewritten = samples.decision(
        1, action="escalate", reason="score_below_threshold", value=0.03125, draft=samples.draft("A wrong\ndraft."),
        observation={"score": 0.03125},
    )  # fmt: skip
    last = samples.step(1, author="large", text="So \\boxed{42}.\nAs \x1b[31mred\x1b[0m.", score=None)
    return events(
        ("decision", "1.0", samples.decision()),
        ("step", "1.1", samples.step(text="First, 6 times 7.")),
        ("decision", "2.1", rewritten),
        ("step", "2.2", last),
        ("end", "end", samples.problem("succeeded", reference="42", verdict="correct", note="Written by models.")),
    )


def submitted(request: httpx2.Request) -> httpx2.Response:
    """Return a batch of the problems that were submitted."""
    count = len(json.loads(request.content)["problems"])
    ids = [str(samples.PROBLEM_ID)] * count
    return answer(samples.batch(0, size=count) | {"problem_ids": ids}, 201)
