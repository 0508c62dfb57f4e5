"""The client for programs that wait in their own thread."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import httpx2

from trim_client import calls
from trim_client.connection import Configuration, Connection
from trim_client.policies import Health, Policies
from trim_client.problems import Batches, Problems


class Client:
    """A client of one service.

    Its methods are grouped by noun: `client.problems.submit(...)`, `client.batches.get(...)`. Threads may share a
    client; after a fork, each process makes its own. `close` it, or use it as a context manager.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        max_retries: int = 4,
        trust_env: bool | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """Make a client. It connects with the first request.

        Args:
            base_url: URL of the service, also with a path that precedes the API's; by default that of the variable
                TRIM_SERVER, otherwise http://127.0.0.1:8080.
            api_key: API key; by default that of the variable TRIM_API_KEY, if there is one.
            timeout: Seconds that the service has to answer one request.
            max_retries: Number of times that a request is sent again after a lost connection, or after the statuses
                408, 425, 429, 502, 503 and 504.
            trust_env: Whether proxies of the environment apply; by default unless the service is on this machine.
            transport: What sends requests in place of the network, for tests.

        Raises:
            ValueError: An argument, or a variable in its place, cannot be used.
            UnusableProxy: A proxy of the environment cannot be used.
        """
        configuration = Configuration(
            base_url=base_url, api_key=api_key, timeout=timeout, max_retries=max_retries, trust_env=trust_env
        )
        self._use(Connection(configuration, transport))

    def _use(self, connection: Connection) -> None:
        self._connection = connection
        self.address = connection.address
        """URL of the service."""
        self.problems = Problems(connection)
        self.batches = Batches(connection)
        self.policies = Policies(connection)
        self.health = Health(connection)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections. Requests in other threads fail."""
        self._connection.http.close()

    def with_options(self, *, timeout: float | None = None, max_retries: int | None = None) -> Self:
        """Return a client with another time limit or number of retries.

        It shares key and connections with this one, so closing one of them closes both.

        Raises:
            ValueError: A number cannot be used.
        """
        other = copy.copy(self)
        other._use(self._connection.with_options(timeout=timeout, max_retries=max_retries))  # noqa: SLF001 - its own
        return other

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request to a path that this version has no method for, and return the JSON of the answer.

        It is sent again after a lost connection: send no request that must not arrive twice.

        Raises:
            TrimClientError: The service refused it, or did not answer.
        """
        return self._connection.call(calls.anything(method, path, query=query or {}, body=body, headers=headers or {}))

    def items(
        self, path: str, *, query: Mapping[str, Any] | None = None, limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Read a listing that this version has no method for, page by page.

        Raises:
            TrimClientError: The service refused it, or did not answer.
        """
        return self._connection.items(calls.any_listing(path, query or {}), limit)
