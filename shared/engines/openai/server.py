"""The connection to one server: an event loop that all calls share.

Only an event loop can abandon a request at any moment, even while the server is silent.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Generic, TypeVar

import httpx2

from shared.backoff import Backoff
from shared.cancellation import Cancellation
from shared.engines.event_loop import EventLoop
from shared.engines.openai.breaker import Breaker
from shared.engines.openai.endpoint import Endpoint
from shared.engines.openai.errors import (
    AccessDenied,
    CircuitOpen,
    IncompleteAnswer,
    ModelNotServed,
    NoRoomForStep,
    ServerBusy,
    ServerUnavailable,
    UnreadableAnswer,
)
from shared.engines.port import InputTooLong, RequestRefused, StepTimeout
from shared.errors import TrimError
from shared.loopback import is_loopback

Answer = TypeVar("Answer")

CONNECT_TIMEOUT_S = 5.0
MAX_ATTEMPTS = 5
RETRY = Backoff(first_s=0.3, limit_s=2.4)

_TOO_LONG = re.compile(r"context.{0,40}(length|size|window)|(length|size|window).{0,40}context|max\w* model len", re.I)
"""Matches the refusal of an input that is too long for the model; servers share no code for it."""

_WITH_STEP = re.compile(
    r"(for|in) (the|your) completion|fewer output tokens|max (completion |new )?tokens\b.{0,40}too large", re.I
)
"""Matches the refusal of an input that leaves too little room for `max_tokens`, from servers that do not write less."""


@dataclass(frozen=True, slots=True)
class _Request(Generic[Answer]):
    url: str
    body: Mapping[str, Any]
    read: Callable[[httpx2.Response], Awaitable[Answer]]


class Server:
    """Sends requests to one server: limits how many run, retries where that can help, and pauses while it is down."""

    def __init__(self, endpoint: Endpoint, *, max_requests: int, breaker: Breaker | None = None) -> None:
        """Start the thread; the server is not contacted yet.

        Args:
            endpoint: The server.
            max_requests: Maximum number of concurrent requests; further ones wait.
            breaker: Decides when the server gets no requests.
        """
        self.endpoint = endpoint
        self._breaker = breaker or Breaker()
        self._slots = asyncio.Semaphore(max_requests)
        self._http = httpx2.AsyncClient(
            headers={"authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {},
            timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),  # The deadline of the call bounds the rest.
            limits=httpx2.Limits(max_connections=max_requests, max_keepalive_connections=max_requests),
            trust_env=not is_loopback(httpx2.URL(endpoint.url).host),
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
            ServerUnavailable: The server could not be reached, failed or was busy at every attempt.
            IncompleteAnswer: The server hung up, or failed, in the middle of its answer.
            CircuitOpen: The server failed many times in a row, some seconds ago at most.
            UnreadableAnswer: The answer is not what was asked for.
            AccessDenied: The server rejects the API key.
            ModelNotServed: The server does not know the model.
            RequestRefused: The server refuses the request for another reason.
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
            raise StepTimeout(
                f"The server of {self.endpoint.url_setting} did not answer in time; check the server, or submit with a"
                " longer step_timeout_s."
            ) from None

    async def _retrying(self, deadline: float, request: _Request[Answer]) -> Answer:
        """Retry while the server does not accept the request: 429, 5xx, or no connection.

        A request that it accepted may have been computed, and is paid for; the orchestrator decides on its retries.
        """
        for attempt in range(MAX_ATTEMPTS):
            try:
                return await self._attempt(deadline, request)
            except ServerUnavailable as error:
                asked_for_s = error.wait_s if isinstance(error, ServerBusy) else None
                delay_s = RETRY.delay_s(attempt) if asked_for_s is None else asked_for_s
                if attempt + 1 == MAX_ATTEMPTS or time.monotonic() + delay_s >= deadline:
                    raise
            await asyncio.sleep(delay_s)
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, deadline: float, request: _Request[Answer]) -> Answer:
        if (passed := self._breaker.admit()) is None:
            raise CircuitOpen(
                f"The server of {self.endpoint.url_setting} failed many times in a row and gets no requests for some"
                " seconds; check that it runs."
            )
        is_alive: bool | None = None
        try:
            with self._named_errors():
                async with self._http.stream("POST", request.url, json=request.body) as response:
                    if response.status_code != HTTPStatus.OK:
                        raise await self._refusal(response)
                    answer = await request.read(response)
            is_alive = True
            return answer
        except asyncio.CancelledError:
            is_alive = False if time.monotonic() >= deadline else None
            raise
        except TrimError as error:
            is_alive = isinstance(error, ServerBusy) or not error.retryable
            raise
        finally:
            self._breaker.settle(passed, is_alive=is_alive)

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

    async def _refusal(self, response: httpx2.Response) -> TrimError:
        """Return the error for a refused request; not with the server's message, which may quote the text."""
        endpoint, status = self.endpoint, response.status_code
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return ServerBusy(
                f"The server of {endpoint.url_setting} is overloaded; lower TRIM_CONCURRENCY, or add replicas.",
                wait_s=_retry_after(response.headers.get("retry-after")),
            )
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return ServerUnavailable(
                f"The server of {endpoint.url_setting} failed with status {status}; check its log."
            )
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return AccessDenied(
                f"The server of {endpoint.url_setting} rejects the API key; set TRIM_OPENAI_API_KEY to a valid one."
            )
        if status == HTTPStatus.NOT_FOUND:
            return ModelNotServed(
                f"The server of {endpoint.url_setting} does not serve the model {endpoint.model}, or not at this path;"
                f" check {endpoint.model_setting}, {endpoint.url_setting} and {endpoint.style_setting}."
            )
        return self._refused_body(status, (await response.aread()).decode(errors="replace"))

    def _refused_body(self, status: int, message: str) -> TrimError:
        """Return the error for a refused body."""
        endpoint = self.endpoint
        reason = _reason(message) if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE) else ""
        if _WITH_STEP.search(reason):
            return NoRoomForStep(
                f"Question, steps and a step of max_step_tokens do not fit the context of {endpoint.model} together;"
                " submit with a lower max_step_tokens or max_steps, or a shorter question."
            )
        if _TOO_LONG.search(reason):
            return InputTooLong(
                f"Question and steps do not fit the context of {endpoint.model}; submit a shorter question or lower"
                " max_steps."
            )
        return RequestRefused(
            f"The server of {endpoint.url_setting} refused the request with status {status}; check"
            f" {endpoint.url_setting}, and that the server supports {endpoint.style_setting}."
        )


def _reason(content: str) -> str:
    """Return code, type and message of a refusal, without other fields, which may quote the text."""
    with suppress(ValueError):
        body = json.loads(content)
        error = body.get("error", body) if isinstance(body, dict) else body
        if isinstance(error, dict):
            content = f"{error.get('code')} {error.get('type')} {error.get('message')}"
    return content.replace("_", " ")


def _retry_after(header: str | None) -> float | None:
    """Read a `Retry-After` header as seconds; return `None` if it is missing or makes no sense."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
