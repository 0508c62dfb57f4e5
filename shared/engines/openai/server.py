"""The connection to one server: an event loop that all calls share.

An event loop, because only there can a request be given up at any moment, also while the server is silent.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Generic, TypeVar

import httpx2

from shared.cancellation import Cancellation
from shared.engines.event_loop import EventLoop
from shared.engines.openai.breaker import Breaker
from shared.engines.openai.endpoint import Endpoint
from shared.engines.openai.errors import (
    AccessDenied,
    AnswerBrokenOff,
    ModelNotServed,
    NoRoomForStep,
    ServerBusy,
    ServerLeftAlone,
    ServerUnavailable,
    UnreadableAnswer,
)
from shared.engines.port import InputTooLong, RequestRefused, StepTimeout
from shared.errors import TrimError

Answer = TypeVar("Answer")

CONNECT_TIMEOUT_S = 5.0
MAX_TRIES = 5
FIRST_WAIT_S = 0.2
"""Seconds before the second try, on average; doubled with each further one."""

_TOO_LONG = re.compile(r"context.{0,40}(length|size|window)|(length|size|window).{0,40}context|max\w* model len", re.I)
"""How servers say that input is too long for the model; there is no code that all of them give."""

_WITH_STEP = re.compile(
    r"(for|in) (the|your) completion|fewer output tokens|max (completion |new )?tokens\b.{0,40}too large", re.I
)
"""How those that do not write less than they are asked for say that the input leaves too little room for it."""


@dataclass(frozen=True, slots=True)
class _Request(Generic[Answer]):
    """What is sent, and how its answer is read."""

    url: str
    body: Mapping[str, Any]
    read: Callable[[httpx2.Response], Awaitable[Answer]]


class Server:
    """Sends requests to one server: at most so many at a time, again where that can help, not while it is down."""

    def __init__(self, endpoint: Endpoint, *, max_requests: int, breaker: Breaker | None = None) -> None:
        """Start the thread; the server is not contacted yet.

        Args:
            endpoint: The server.
            max_requests: Requests that it gets at a time; further ones wait for their turn.
            breaker: Decides when the server is left alone.
        """
        self.endpoint = endpoint
        self._breaker = breaker or Breaker()
        self._slots = asyncio.Semaphore(max_requests)
        self._http = httpx2.AsyncClient(
            headers={"authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {},
            timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),  # the call's deadline bounds all else
            limits=httpx2.Limits(max_connections=max_requests, max_keepalive_connections=max_requests),
        )
        self._loop = EventLoop(endpoint.model)

    def ask(
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
            url: Where to.
            body: The request, sent as JSON.
            read: Reads a successful response; raises `ValueError` if it makes no sense.
            cancellation: Ends the request early.
            deadline: On the monotonic clock; waiting for a turn and all tries count.

        Raises:
            Cancelled: Cancellation was asked for.
            StepTimeout: There was no answer by the deadline.
            EngineStopped: The server was closed meanwhile.
            InputTooLong: The server says that the model's context is too short.
            NoRoomForStep: It says so of input and step together.
            AnswerWithheld: Its filter ended the answer.
            ServerUnavailable: It cannot be reached, fails, or is busy, again and again.
            AnswerBrokenOff: It hung up, or failed, in the middle of its answer.
            ServerLeftAlone: It has failed many times in a row, and some seconds are not over yet.
            UnreadableAnswer: It answered with something else than was asked for.
            AccessDenied: It does not accept the API key.
            ModelNotServed: It knows no such model.
            RequestRefused: It refuses the request for another reason.
        """
        cancellation.raise_if_cancelled()
        # What is given up closes its connection, which is how a server learns that nobody waits.
        return self._loop.run(self._within(deadline, _Request(url, body, read)), cancellation)

    def close(self) -> None:
        """End all requests; their callers raise `EngineStopped`."""
        self._loop.close(self._http.aclose)

    async def _within(self, deadline: float, request: _Request[Answer]) -> Answer:
        try:
            async with asyncio.timeout(deadline - time.monotonic()), self._slots:
                return await self._again_and_again(deadline, request)
        except TimeoutError:
            raise StepTimeout(
                f"The server of {self.endpoint.url_setting} did not answer in time;"
                " check it, or submit with a longer step_timeout_s."
            ) from None

    async def _again_and_again(self, deadline: float, request: _Request[Answer]) -> Answer:
        """Try once more where the server did not take the request: 429, 5xx, or no connection.

        What it took may have been computed, and is paid for: whether to ask for that again is not decided here.
        """
        wait_s = FIRST_WAIT_S
        for is_last in [False] * (MAX_TRIES - 1) + [True]:
            try:
                return await self._once(deadline, request)
            except ServerUnavailable as error:
                asked_for = error.wait_s if isinstance(error, ServerBusy) else None
                pause_s = wait_s * random.uniform(0.5, 1.5) if asked_for is None else asked_for  # noqa: S311 - no secret
                if is_last or time.monotonic() + pause_s >= deadline:
                    raise
            await asyncio.sleep(pause_s)
            wait_s *= 2
        raise AssertionError("the last try returns or raises")

    async def _once(self, deadline: float, request: _Request[Answer]) -> Answer:
        place = self.endpoint
        if (passed := self._breaker.admit()) is None:
            raise ServerLeftAlone(
                f"The server of {place.url_setting} has failed many times in a row and is left alone for some seconds;"
                " check that it runs."
            )
        is_alive: bool | None = None
        try:
            async with self._http.stream("POST", request.url, json=request.body) as response:
                if response.status_code != HTTPStatus.OK:
                    raise await self._refusal(response)
                answer = await request.read(response)
            is_alive = True
            return answer
        except asyncio.CancelledError:
            is_alive = False if time.monotonic() >= deadline else None
            raise
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            is_alive = False
            raise ServerUnavailable(
                f"The server of {place.url_setting} cannot be reached; check that it runs there."
            ) from error
        except httpx2.TransportError as error:
            is_alive = False
            raise AnswerBrokenOff(
                f"The server of {place.url_setting} broke off; check that it runs, and its log."
            ) from error
        except (ValueError, httpx2.DecodingError):  # not chained: what it says may quote the text
            is_alive = False
            raise UnreadableAnswer(
                f"What answers at {place.url_setting} did not answer as an OpenAI-compatible server does;"
                f" check {place.url_setting}."
            ) from None
        except TrimError as error:
            is_alive = isinstance(error, ServerBusy) or not error.retryable
            raise
        finally:
            self._breaker.settle(passed, is_alive=is_alive)

    async def _refusal(self, response: httpx2.Response) -> TrimError:
        """Give a refused request its name. What the server says is read but not passed on: it may quote the text."""
        place, status = self.endpoint, response.status_code
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return ServerBusy(
                f"The server of {place.url_setting} has too much to do; lower TRIM_CONCURRENCY, or give it replicas.",
                wait_s=_retry_after(response.headers.get("retry-after")),
            )
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return ServerUnavailable(f"The server of {place.url_setting} failed with status {status}; see its log.")
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return AccessDenied(
                f"The server of {place.url_setting} does not accept the API key; set TRIM_OPENAI_API_KEY to one"
                " that it knows."
            )
        if status == HTTPStatus.NOT_FOUND:
            return ModelNotServed(
                f"The server of {place.url_setting} serves no model {place.model}, or not this way;"
                f" check {place.model_setting}, {place.url_setting} and {place.style_setting}."
            )
        return self._refused_input(status, (await response.aread()).decode(errors="replace"))

    def _refused_input(self, status: int, said: str) -> TrimError:
        """Give the refusal of what was asked its name."""
        place = self.endpoint
        reason = _reason(said) if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE) else ""
        if _WITH_STEP.search(reason):
            return NoRoomForStep(
                f"question, steps and a step of max_step_tokens do not fit the context of {place.model} together;"
                " submit with a lower max_step_tokens or max_steps, or a shorter question"
            )
        if _TOO_LONG.search(reason):
            return InputTooLong(
                f"question and steps do not fit the context of {place.model}; submit a shorter question or lower"
                " max_steps"
            )
        return RequestRefused(
            f"The server of {place.url_setting} refuses the request with status {status}; check {place.url_setting},"
            f" and that the server supports {place.style_setting}."
        )


def _reason(said: str) -> str:
    """Find the code and the message of a refusal, which may quote the text beside them."""
    with suppress(ValueError):
        body = json.loads(said)
        error = body.get("error", body) if isinstance(body, dict) else body
        if isinstance(error, dict):
            said = f"{error.get('code')} {error.get('type')} {error.get('message')}"
    return said.replace("_", " ")


def _retry_after(header: str | None) -> float | None:
    """Read a `Retry-After` header as seconds; `None` if there is none that makes sense."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
