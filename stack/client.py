"""A client for the REST API."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx2

from shared.errors import RetryableError, TrimError

READY_TIMEOUT_S = 600.0
"""Seconds until `wait_until_ready` gives up; large models take minutes to load."""

REPORT_AFTER_S = 5.0
"""Seconds after which `wait_until_ready` reports what it waits for."""

PAGE = 200
"""Number of problems in one request: the API's maximum."""


class NotReady(RetryableError):
    """The stack is not ready in time; see the logs under .state/logs."""

    code = "not_ready"


class ApiRefused(TrimError):
    """The API refused a request."""

    code = "api_refused"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        """Code of the problem details."""


class Api:
    """Client for the REST API at an address."""

    def __init__(self, address: str) -> None:
        self.address = address
        # The API runs on this machine; a proxy from the environment (http_proxy) may be unable to reach it.
        self._http = httpx2.Client(base_url=address, timeout=30.0, trust_env=False)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self._http.close()

    def wait_until_ready(self, check: Callable[[], None], *, tell: Callable[[str], object] = lambda _: None) -> None:
        """Wait until every part of the service is up.

        Args:
            check: Called between attempts; raises if waiting is pointless.
            tell: Receives the names of the parts that are still down after some seconds, and whenever they change.

        Raises:
            NotReady: A part is still down after `READY_TIMEOUT_S`; the message names it.
        """
        began = time.monotonic()
        down, reported = "the API", ""
        while time.monotonic() < began + READY_TIMEOUT_S:
            check()
            if time.monotonic() > began + REPORT_AFTER_S and down != reported:
                tell(reported := down)
            try:
                answer = self._http.get("/health/ready").json()
            except (httpx2.TransportError, ValueError):
                down = "the API"
            else:
                down = ", ".join(answer["down"])
                if not down:
                    return
            time.sleep(0.1)
        raise NotReady(f"Still down after {READY_TIMEOUT_S:.0f} s: {down}; see the logs under .state/logs.")

    def submit(self, problems: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]) -> str:
        """Submit problems as one batch and return its id."""
        batch: str = self._json("POST", "/v1/batches", {"problems": list(problems), "defaults": dict(defaults)})["id"]
        return batch

    def batch(self, batch_id: str) -> dict[str, Any]:
        """Read a batch."""
        return self._json("GET", f"/v1/batches/{batch_id}")

    def batch_problems(self, batch_id: str) -> Iterator[dict[str, Any]]:
        """Read the problems of a batch, in order of submission."""
        cursor: dict[str, str] = {}
        while True:
            page = self._json("GET", f"/v1/batches/{batch_id}/problems", query={**cursor, "limit": str(PAGE)})
            yield from page["items"]
            if page["next_cursor"] is None:
                return
            cursor = {"cursor": page["next_cursor"]}

    def cancel(self, problem_id: str) -> None:
        """Cancel a problem."""
        self._json("POST", f"/v1/problems/{problem_id}/cancel")

    def _json(
        self, method: str, path: str, body: object = None, *, query: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        response = self._http.request(method, path, json=body, params=query)
        if response.is_error:
            raise ApiRefused(
                f"{method} {path} was refused with {response.status_code}: {response.text[:500]}",
                reason=_code_of(response),
            )
        answer: dict[str, Any] = response.json()
        return answer


def _code_of(response: httpx2.Response) -> str:
    """Return the code of problem details; empty if the response, perhaps of a proxy, is none."""
    try:
        body = response.json()
    except ValueError:
        return ""
    return str(body.get("code", "")) if isinstance(body, dict) else ""
