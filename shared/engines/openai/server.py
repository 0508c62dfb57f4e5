"""The connection to one server: an event loop that all calls share.

Only an event loop can abandon a request at any moment, even while the server is silent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Generic, TypeVar

import httpx2

from shared.cancellation import Cancellation
from shared.engines.event_loop import EventLoop
from shared.engines.openai.endpoint import Endpoint
from shared.engines.openai.errors import (
    BodyRefused,
    IncompleteAnswer,
    ServerBusy,
    ServerUnavailable,
    UnreadableAnswer,
)
from shared.engines.openai.pacing import RETRY, Pacing
from shared.engines.openai.reasons import ReportedFailure, read_failure
from shared.engines.openai.refusals import read_retry_after, refusal, reported
from shared.engines.openai.support import Support
from shared.engines.port import StepTimeout
from shared.errors import TrimError
from shared.proxies import explaining_proxies
from shared.this_machine import is_this_machine

Answer = TypeVar("Answer")

CONNECT_TIMEOUT_S = 5.0
MAX_ATTEMPTS = 5

KEEP_ALIVE_S = 3.0
"""Seconds that an idle connection is kept: less than the 5 s after which many servers close it."""

MAX_LESSONS = 8
"""Maximum number of times that one request is sent again without parameters that the server has just refused."""


@dataclass(frozen=True, slots=True)
class _Request(Generic[Answer]):
    url: str
    body: Mapping[str, Any]
    read: Callable[[httpx2.Response], Awaitable[Answer]]


@dataclass(slots=True)
class _Connection:
    """The connection of one request, as the library tells of it."""

    is_new: bool = False
    has_answered: bool = False

    async def trace(self, event: str, _: Mapping[str, Any]) -> None:
        """Take an event of the library."""
        if event.startswith("connection.connect"):
            self.is_new = True

    @property
    def is_stale(self) -> bool:
        """Whether the server may have closed it while it was idle, before it saw the request."""
        return not (self.is_new or self.has_answered)


class Server:
    """Sends requests to one server: limits how many run, and retries where that can help.

    Whether the server can work at all is judged by its worker (`shared/worker/fitness.py`).
    """

    def __init__(self, endpoint: Endpoint, *, max_requests: int) -> None:
        """Start the thread; the server is not contacted yet.

        Args:
            endpoint: The server.
            max_requests: Maximum number of concurrent requests; further ones wait.

        Raises:
            UnusableProxy: A proxy of the environment cannot be used.
        """
        self.endpoint = endpoint
        self._pacing = Pacing()
        self._support = Support(endpoint.parameters, endpoint.model)
        self._slots = asyncio.Semaphore(max_requests)
        with explaining_proxies():
            self._http = httpx2.AsyncClient(
                headers={"authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {},
                timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),  # The deadline of the call bounds the rest.
                limits=httpx2.Limits(
                    max_connections=max_requests, max_keepalive_connections=max_requests, keepalive_expiry=KEEP_ALIVE_S
                ),
                trust_env=not is_this_machine(httpx2.URL(endpoint.url).host),
            )
        self._loop = EventLoop(endpoint.model)

    def request(
        self,
        url: str,
        body: Mapping[str, Any],
        read: Callable[[httpx2.Response], Awaitable[Answer]],
        *,
        cancellation: Cancellation,
        deadline: float,
    ) -> Answer:
        """Send a request and read its answer.

        Args:
            url: URL of the endpoint.
            body: Body of the request, sent as JSON.
            read: Reads a successful response; raises `ValueError` if it makes no sense.
            cancellation: Ends the request early.
            deadline: Time on the monotonic clock; waiting for a free slot and all attempts count.

        Raises:
            Cancelled: The cancellation was set.
            StepTimeout: There was no answer by the deadline.
            EngineStopped: The server was closed meanwhile.
            InputTooLong: The input does not fit the model's context.
            NoRoomForStep: Input and step together do not fit it.
            AnswerWithheld: The server's content filter ended the answer.
            ServerUnavailable: The server could not be reached, failed or was busy at every attempt, or asks for a rest
                that is longer than the deadline.
            IncompleteAnswer: The server hung up, or failed, in the middle of its answer.
            UnreadableAnswer: The answer is not what was asked for.
            AccessDenied: The server rejects the API key.
            ModelNotServed: The server does not know the model.
            BodyRefused: The server refuses the request for another reason.
        """
        cancellation.raise_if_cancelled()
        # An abandoned request closes its connection, from which the server learns that nobody waits.
        return self._loop.run(self._within(deadline, _Request(url, body, read)), cancellation)

    def close(self) -> None:
        """End all requests; their callers raise `EngineStopped`."""
        self._loop.close(self._http.aclose)

    async def _within(self, deadline: float, request: _Request[Answer]) -> Answer:
        try:
            async with asyncio.timeout(deadline - time.monotonic()), self._slots:
                return await self._retrying(deadline, request)
        except TimeoutError:
            if self._pacing.is_busy:
                raise self._busy() from None
            raise StepTimeout(
                f"The server of {self.endpoint.url_setting} did not answer in time; check the server, or submit with a"
                " longer step_timeout_s."
            ) from None

    async def _retrying(self, deadline: float, request: _Request[Answer]) -> Answer:
        """Retry while the server does not accept the request: 429, 408, 5xx, or no connection.

        A request that it accepted may have been computed, and is paid for; the orchestrator decides on its retries.
        """
        for attempt in range(MAX_ATTEMPTS):
            if self._pacing.rests_past(deadline):
                raise self._busy()
            try:
                return await self._learning(request)
            except ServerUnavailable as error:
                is_paced = self._pacing.is_busy  # Then the next attempt waits for its turn.
                delay_s = 0.0 if is_paced else RETRY.delay_s(attempt)
                if attempt + 1 == MAX_ATTEMPTS or time.monotonic() + delay_s >= deadline:
                    raise
                if isinstance(error, ServerBusy) and self._pacing.rests_past(deadline):
                    raise
            await asyncio.sleep(delay_s)
        raise AssertionError("the last attempt returns or raises")

    async def _learning(self, request: _Request[Answer]) -> Answer:
        """Send a request again without the parameters that the server says it does not support."""
        for _ in range(MAX_LESSONS):
            try:
                return await self._attempt(request)
            except BodyRefused as error:
                if not error.teaches:
                    raise
        return await self._attempt(request)

    async def _attempt(self, request: _Request[Answer]) -> Answer:
        with self._named_errors():
            return await self._exchange(request)

    async def _exchange(self, request: _Request[Answer]) -> Answer:
        """Send a request; send it again if the server has closed the idle connection on which it was sent."""
        while True:
            connection = _Connection()
            try:
                return await self._converse(request, connection)
            except httpx2.TransportError:
                if not connection.is_stale:
                    raise

    async def _converse(self, request: _Request[Answer], connection: _Connection) -> Answer:
        sent = self._support.applied_to(request.body)
        async with AsyncExitStack() as stack:
            async with self._pacing.turn():
                response = await stack.enter_async_context(
                    self._http.stream("POST", request.url, json=sent, extensions={"trace": connection.trace})
                )
                connection.has_answered = True
                if response.status_code != HTTPStatus.OK:
                    raise await self._refusal(response, sent)
                self._pacing.accept()
            try:
                return await request.read(response)
            except ReportedFailure as failure:
                error = reported(self.endpoint, failure, sent)
                if isinstance(error, ServerBusy):
                    self._pacing.rest(None)
                raise error from None

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Turn the library's errors into ours."""
        setting = self.endpoint.url_setting
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise ServerUnavailable(f"The server of {setting} cannot be reached; check that it runs there.") from error
        except httpx2.TransportError as error:
            raise IncompleteAnswer(
                f"The server of {setting} closed the connection before its answer was complete; check that it runs, and"
                " its log."
            ) from error
        except (ValueError, httpx2.DecodingError):  # Not chained: its message may quote the text.
            raise UnreadableAnswer(
                f"The answer from {setting} is not that of an OpenAI-compatible server; check {setting}."
            ) from None

    async def _refusal(self, response: httpx2.Response, sent: Mapping[str, Any]) -> TrimError:
        """Return the error for a request that was refused, and remember what it teaches."""
        failed = read_failure((await response.aread()).decode(errors="replace"))
        wait_s = read_retry_after(response.headers.get("retry-after"))
        error = refusal(self.endpoint, response.status_code, failed, sent, wait_s=wait_s)
        if isinstance(error, BodyRefused):
            error.teaches = self._support.learn(sent, failed)
        if isinstance(error, ServerBusy) or (isinstance(error, ServerUnavailable) and wait_s is not None):
            self._pacing.rest(wait_s)
        return error

    def _busy(self) -> ServerBusy:
        return ServerBusy(
            f"The server of {self.endpoint.url_setting} is overloaded and asks for a rest; lower TRIM_CONCURRENCY, or"
            " add replicas."
        )
