"""Reads the REST API as plain JSON, through the Python client; errors are those of this project."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import trim_client
from shared.errors import PermanentError, RetryableError, TrimError
from shared.proxies import UnusableProxy

READY_TIMEOUT_S = 600.0
"""Seconds until `wait_until_ready` gives up; large models take minutes to load."""

REPORT_AFTER_S = 5.0
"""Seconds after which `wait_until_ready` reports what it waits for."""


class NotReady(RetryableError):
    """The stack is not ready in time; see the logs under .state/logs."""

    code = "not_ready"


class Unreachable(RetryableError):
    """No service answers; start one with `make serve`, or name its address with --server."""

    code = "unreachable"


class NotTheService(TrimError):
    """The address does not answer as this service; check --server."""

    code = "not_the_service"


class ApiRefused(TrimError):
    """The API refused a request."""

    code = "api_refused"

    def __init__(self, message: str, *, reason: str, may_pass: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        """Code of the problem details."""
        self.may_pass = may_pass
        """Whether the same request may succeed later: the service, or a gateway before it, lacks something now."""


class NoVersion(PermanentError):
    """The service has no such version of the policy; `trim policies versions` lists those that it has."""

    code = "no_version"


class Api:
    """The REST API at an address. Requests are not repeated: callers have their own patience."""

    def __init__(self, address: str, *, is_here: bool = False, key: str | None = None) -> None:
        """Take the address, such as `http://127.0.0.1:8080`.

        Args:
            address: URL of the service; its path precedes the API's, as behind a proxy that serves it under a path.
            is_here: Whether the service certainly runs on this machine, whatever its host name.
            key: Key of the API; `None` for a service that needs none, also if the environment has one.

        Raises:
            ValueError: It is not an address of HTTP.
            UnusableProxy: A proxy of the environment cannot be used.
        """
        self.address = address
        try:
            self._client = trim_client.Client(
                address, api_key=key or "", max_retries=0, trust_env=False if is_here else None
            )
        except trim_client.UnusableProxy as error:
            raise UnusableProxy from error.__cause__

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self._client.close()

    def wait_until_ready(
        self,
        check: Callable[[], None],
        *,
        tell: Callable[[str], object] = lambda _: None,
        problems_may_wait: bool = False,
    ) -> None:
        """Wait until every part of the service is up.

        Args:
            check: Called between attempts; raises if waiting is pointless.
            tell: Receives the names of the parts that are still down after some seconds, and whenever they change.
            problems_may_wait: Whether it is enough that submissions are accepted.

        Raises:
            NotReady: A part is still down after `READY_TIMEOUT_S`; the message names it.
        """
        began = time.monotonic()
        down, reported = "the API", ""
        while time.monotonic() < began + READY_TIMEOUT_S:
            check()
            if time.monotonic() > began + REPORT_AFTER_S and down != reported:
                tell(reported := down)
            if (answer := self.readiness()) is None:
                down = "the API"
            else:
                down = ", ".join(answer["down"])
                if not down or (problems_may_wait and answer["status"] != "unavailable"):
                    return
            time.sleep(0.1)
        raise NotReady(f"Still down after {READY_TIMEOUT_S:.0f} s: {down}; see the logs under .state/logs.")

    def readiness(self) -> dict[str, Any] | None:
        """Read which parts of the service are up; `None` while the API does not answer."""
        try:
            return self._client.health.ready().model_dump(mode="json")
        except trim_client.TrimClientError:
            return None

    def submit(
        self, problems: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any], *, key: str | None = None
    ) -> str:
        """Submit problems as one batch and return its id.

        Args:
            problems: Problems as `POST /v1/batches` takes them.
            defaults: Options of problems that omit them.
            key: Idempotency key: the same key with the same problems returns the first batch.
        """
        headers = None if key is None else {"Idempotency-Key": key}
        body = {"problems": list(problems), "defaults": dict(defaults)}
        batch: str = self.post("/v1/batches", body, headers=headers)["id"]
        return batch

    def batch(self, batch_id: str) -> dict[str, Any]:
        """Read a batch."""
        answer: dict[str, Any] = self.get(f"/v1/batches/{batch_id}")
        return answer

    def batch_problems(self, batch_id: str) -> Iterator[dict[str, Any]]:
        """Read the problems of a batch, in order of submission."""
        return self.items(f"/v1/batches/{batch_id}/problems")

    def items(self, path: str, *, count: int | None = None) -> Iterator[dict[str, Any]]:
        """Read a listing page by page.

        Args:
            path: Path of the listing.
            count: Maximum number of items; the default is all.

        Raises:
            ApiRefused: The API refused a request.
            Unreachable: No service answers.
        """
        with _translating(f"GET {path}"):
            yield from self._client.items(path, limit=count)

    def cancel(self, problem_id: str) -> None:
        """Cancel a problem."""
        self.post(f"/v1/problems/{problem_id}/cancel")

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """Read the JSON at a path.

        Raises:
            ApiRefused: The API refused the request.
            NotTheService: Something else answers at the address.
            Unreachable: No service answers.
        """
        return self._json("GET", path, query=query)

    def post(self, path: str, body: object = None, *, headers: Mapping[str, str] | None = None) -> Any:
        """Send JSON to a path, and return the answer.

        Raises:
            ApiRefused: The API refused the request.
            NotTheService: Something else answers at the address.
            Unreachable: No service answers.
        """
        return self._json("POST", path, body, headers=headers)

    def _json(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        with _translating(f"{method} {path}"):
            return self._client.request(method, path, body=body, query=query, headers=headers)


@contextmanager
def _translating(request: str) -> Iterator[None]:
    """Turn errors of the client into those of this project, with the next thing to try."""
    try:
        yield
    except trim_client.Unreachable as error:
        sentence = str(error).removesuffix(".")
        raise Unreachable(f"{sentence}; start one with `make serve`, or name its address with --server.") from error
    except trim_client.NotTheService as error:
        raise NotTheService(f"{str(error).removesuffix('.')}; check --server.") from error
    except trim_client.Refused as error:
        raise ApiRefused(
            f"{request} was refused with {error.status}: {error.detail}", reason=error.code, may_pass=error.may_pass
        ) from error
