"""The client for asyncio. It has the methods of `Client`, and a test keeps the two alike."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, Unpack

import httpx2

from trim_client import calls
from trim_client.attempts import until_batch_ended, until_ended
from trim_client.calls import Id
from trim_client.connection import AsyncConnection, Configuration
from trim_client.events import Event
from trim_client.following import Following
from trim_client.models.health import Liveness, Readiness
from trim_client.models.policies import PolicyArtefact, PolicyDescription, PolicyVersion
from trim_client.models.problems import Batch, CancelledBatch, ListedBatch, Problem, SubmittedBatch
from trim_client.models.record import AuditEntry, Decision, Step
from trim_client.options import Conditions, NewProblem, Options


class AsyncClient:
    """A client of one service, for asyncio. `Client` explains arguments and errors; both have the same.

    The tasks of one event loop may share a client. `close` it, or use it as an asynchronous context manager. Leave a
    stream before its end with `contextlib.aclosing`, so that its connection closes at once.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        max_retries: int = 4,
        trust_env: bool | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """Make a client. It connects with the first request. The arguments are those of `Client`.

        Raises:
            ValueError: An argument, or a variable in its place, cannot be used.
            UnusableProxy: A proxy of the environment cannot be used.
        """
        configuration = Configuration(
            base_url=base_url, api_key=api_key, timeout=timeout, max_retries=max_retries, trust_env=trust_env
        )
        self._use(AsyncConnection(configuration, transport))

    def _use(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self.address = connection.address
        """URL of the service."""
        self.problems = AsyncProblems(connection)
        self.batches = AsyncBatches(connection)
        self.policies = AsyncPolicies(connection)
        self.health = AsyncHealth(connection)

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.close()

    async def close(self) -> None:
        """Close the connections. Requests in other tasks fail."""
        await self._connection.http.aclose()

    def with_options(self, *, timeout: float | None = None, max_retries: int | None = None) -> Self:
        """Return a client with another time limit or number of retries; it shares the connections."""
        other = copy.copy(self)
        other._use(self._connection.with_options(timeout=timeout, max_retries=max_retries))  # noqa: SLF001 - its own
        return other

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request to a path that this version has no method for, and return the JSON of the answer."""
        return await self._connection.call(
            calls.anything(method, path, query=query or {}, body=body, headers=headers or {})
        )

    def items(
        self, path: str, *, query: Mapping[str, Any] | None = None, limit: int | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Read a listing that this version has no method for, page by page."""
        return self._connection.items(calls.any_listing(path, query or {}), limit)


class AsyncProblems:
    """Problems, and their record."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def submit(
        self,
        question: str,
        *,
        reference: str | float | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[Options],
    ) -> Problem:
        """Submit a problem, and return it. It waits in the queue until the service starts it."""
        return await self._connection.call(calls.submit_problem(question, reference, options, idempotency_key))

    async def solve(
        self,
        question: str,
        *,
        reference: str | float | None = None,
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> Problem:
        """Submit a problem, wait until it ends, and return it. Also a failed problem is returned."""
        submitted = await self.submit(question, reference=reference, idempotency_key=idempotency_key, **options)
        return await self.wait(submitted.id, timeout_s=timeout_s)

    async def get(self, problem_id: Id) -> Problem:
        """Read a problem."""
        return await self._connection.call(calls.problem(problem_id))

    async def wait(self, problem_id: Id, *, timeout_s: float | None = None) -> Problem:
        """Wait until a problem ends, also across lost connections, and return it."""
        patience = self._connection.patience(timeout_s)
        return await self._connection.run(until_ended(problem_id, patience, address=self._connection.address))

    def stream(
        self, problem_id: Id, *, after: str | None = None, timeout_s: float | None = None
    ) -> AsyncIterator[Event]:
        """Receive decisions and steps as they come, then the end. Each comes once, also across lost connections."""
        patience = self._connection.patience(timeout_s)
        return self._connection.events(
            Following(problem_id, after=after, patience=patience, address=self._connection.address)
        )

    async def cancel(self, problem_id: Id) -> Problem:
        """Cancel a problem, and return it. One that has ended stays as it is; another one ends a moment later."""
        return await self._connection.call(calls.cancel_problem(problem_id))

    def list(self, *, limit: int | None = None, **conditions: Unpack[Conditions]) -> AsyncIterator[Problem]:
        """List problems, newest first, page by page as they are used."""
        return self._connection.items(calls.problems(**conditions), limit)

    def steps(self, problem_id: Id, *, limit: int | None = None) -> AsyncIterator[Step]:
        """List the accepted steps of a problem in the order of the solution."""
        return self._connection.items(calls.steps(problem_id), limit)

    def decisions(self, problem_id: Id, *, limit: int | None = None) -> AsyncIterator[Decision]:
        """List the decisions on a problem in the order in which they were taken."""
        return self._connection.items(calls.decisions(problem_id), limit)

    def audit(self, problem_id: Id, *, limit: int | None = None) -> AsyncIterator[AuditEntry]:
        """List the decisions on a problem, each beside the step that the solution now has at its place."""
        return self._connection.items(calls.audit(problem_id), limit)


class AsyncBatches:
    """Problems that were submitted together."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def submit(
        self,
        problems: Iterable[str | NewProblem | Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        on_error: Literal["reject", "skip"] | None = None,
        **defaults: Unpack[Options],
    ) -> SubmittedBatch:
        """Submit problems together: by default all of them, or none if one is wrong."""
        return await self._connection.call(calls.submit_batch(problems, defaults, idempotency_key, on_error))

    async def get(self, batch_id: Id) -> Batch:
        """Read a batch with the sums over its problems."""
        return await self._connection.call(calls.batch(batch_id))

    async def wait(
        self, batch_id: Id, *, timeout_s: float | None = None, show: Callable[[Batch], object] | None = None
    ) -> Batch:
        """Wait until all problems of a batch have ended, and return it."""
        patience = self._connection.patience(timeout_s)
        return await self._connection.run(
            until_batch_ended(batch_id, patience, address=self._connection.address, show=show)
        )

    def problems(self, batch_id: Id, *, limit: int | None = None) -> AsyncIterator[Problem]:
        """List the problems of a batch in order of submission."""
        return self._connection.items(calls.batch_problems(batch_id), limit)

    async def cancel(self, batch_id: Id) -> CancelledBatch:
        """Cancel those problems of a batch that have not ended, and return the batch."""
        return await self._connection.call(calls.cancel_batch(batch_id))

    def list(self, *, limit: int | None = None) -> AsyncIterator[ListedBatch]:
        """List batches, newest first and without sums, page by page as they are used."""
        return self._connection.items(calls.batches(), limit)


class AsyncPolicies:
    """Policies, and versions of those that are fitted to models."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self) -> Sequence[PolicyDescription]:
        """List the policies that a submission can name."""
        return await self._connection.call(calls.policies())

    async def default(self, name: str) -> PolicyVersion:
        """Read the version that a submission without a version gets: the default for the running models."""
        return await self._connection.call(calls.default_version(name))

    async def version(self, name: str, number: int) -> PolicyVersion:
        """Read a version of a fitted policy."""
        return await self._connection.call(calls.version(name, number))

    def versions(
        self, name: str, *, is_default: bool | None = None, limit: int | None = None
    ) -> AsyncIterator[PolicyVersion]:
        """List the versions of a fitted policy, newest first; only those that are a default, or only others."""
        return self._connection.items(calls.versions(name, is_default=is_default), limit)

    async def artefact(self, name: str, number: int) -> PolicyArtefact:
        """Read the artefact of a version, as another service can register it."""
        return await self._connection.call(calls.artefact(name, number))

    async def register(self, name: str, card: Mapping[str, Any], npz: bytes) -> PolicyVersion:
        """Register an artefact under the policy's next number; one that is known keeps its number."""
        return await self._connection.call(calls.register_version(name, card, npz))

    async def make_default(self, name: str, number: int) -> PolicyVersion:
        """Make a version the default for its models."""
        return await self._connection.call(calls.make_default(name, number))

    async def retire(self, name: str, number: int) -> PolicyVersion:
        """Withdraw a version from new submissions, permanently. Problems that have it keep it."""
        return await self._connection.call(calls.retire(name, number))


class AsyncHealth:
    """Health of the service."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def live(self) -> Liveness:
        """Confirm that the service answers."""
        return await self._connection.call(calls.live())

    async def ready(self) -> Readiness:
        """Read which parts of the service are up; also of one that refuses submissions."""
        return await self._connection.call(calls.ready())
