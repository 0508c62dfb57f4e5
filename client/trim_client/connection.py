"""How requests are sent: the two thin layers between the logic of the client and httpx2."""

from __future__ import annotations

import asyncio
import copy
import os
import platform
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self, TypeVar

import httpx2

from trim_client.addresses import DEFAULT_SERVER, host_of, is_this_machine
from trim_client.attempts import Flow, Lost, Patience, Retries, Send, Sleep, attempts
from trim_client.calls import PAGE, Call, Listing
from trim_client.errors import Answer, Refused, UnusableProxy
from trim_client.events import Event
from trim_client.following import EVENT_STREAM, Following
from trim_client.version import VERSION

T = TypeVar("T")
Item = TypeVar("Item")

CONNECT_S: Final = 10.0
"""Maximum number of seconds for a connection to be made."""

USER_AGENT: Final = f"trim-client/{VERSION} python/{platform.python_version()}"

_LOST: Final = (httpx2.TransportError, httpx2.DecodingError)
"""Errors of a request or stream that got no complete answer."""

_RETRIED: Final = (*_LOST, Refused)
"""Errors after which a stream may go on; `Following` decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Where the service is, and how it is asked.

    Raises:
        ValueError: The address is none of HTTP, the key cannot be a header, or a number is negative.
    """

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 30.0
    max_retries: int = 4
    trust_env: bool | None = None
    """Whether proxies of the environment apply; by default unless the service is on this machine."""

    def __post_init__(self) -> None:
        if self.timeout <= 0 or self.max_retries < 0:
            raise ValueError("`timeout` must be above 0 and `max_retries` at least 0")
        host_of(self.address)
        if not (key := self.key).isascii() or not key.isprintable():
            raise ValueError("the API key has characters that a header cannot have")

    @property
    def address(self) -> str:
        """URL of the service; its path precedes the API's."""
        return (self.base_url or os.environ.get("TRIM_SERVER") or DEFAULT_SERVER).rstrip("/")

    @property
    def key(self) -> str:
        """API key; empty without one."""
        return (self.api_key if self.api_key is not None else os.environ.get("TRIM_API_KEY", "")).strip()

    @property
    def retries(self) -> Retries:
        """When a request is sent again."""
        return Retries(max_retries=self.max_retries)

    @property
    def trusts_environment(self) -> bool:
        """Whether proxies of the environment apply."""
        return not is_this_machine(host_of(self.address)) if self.trust_env is None else self.trust_env

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of every request."""
        authorization = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return {"User-Agent": USER_AGENT, **authorization}

    def time_limits(self, *, more_s: float = 0.0) -> httpx2.Timeout:
        """Return the time limits of a request whose answer may take some seconds more."""
        return httpx2.Timeout(self.timeout + more_s, connect=min(self.timeout, CONNECT_S))


class _Settled:
    """A configuration whose environment was read once: a client does not change under its user."""

    def __init__(self, configuration: Configuration) -> None:
        self.address = configuration.address
        self.retries = configuration.retries
        self.headers = configuration.headers
        self.limits = configuration.time_limits
        self.trusts_environment = configuration.trusts_environment
        self.configuration = configuration

    def with_options(self, *, timeout: float | None, max_retries: int | None) -> Self:
        """Return a connection with other limits that shares what it is connected to."""
        given = {
            name: value for name, value in (("timeout", timeout), ("max_retries", max_retries)) if value is not None
        }
        other = copy.copy(self)
        other.configuration = changed = replace(self.configuration, **given)  # type: ignore[arg-type]
        other.retries, other.limits = changed.retries, changed.time_limits
        return other

    def request(self, call: Call[Any]) -> dict[str, Any]:
        """Return the arguments of httpx2 for a request."""
        return {
            "method": call.method,
            "url": f"{self.address}{call.path}",
            "params": dict(call.query) or None,
            "json": call.body,
            "headers": {**self.headers, **call.headers},
            "timeout": self.limits(more_s=call.takes_s),
        }

    def stream(self, following: Following) -> dict[str, Any]:
        """Return the arguments of httpx2 for a stream of events."""
        limits = self.limits()
        return {
            "method": "GET",
            "url": f"{self.address}{following.path}",
            "headers": {**self.headers, **following.headers, "Accept": EVENT_STREAM, "Cache-Control": "no-store"},
            "timeout": httpx2.Timeout(limits.write, connect=limits.connect, read=following.silence_s),
        }

    def patience(self, timeout_s: float | None) -> Patience:
        """Return how long a lost service is waited for."""
        return Patience(self.retries, timeout_s=timeout_s)


class Connection(_Settled):
    """Sends requests, and waits, in the thread of the caller."""

    def __init__(self, configuration: Configuration, transport: httpx2.BaseTransport | None) -> None:
        super().__init__(configuration)
        try:
            self.http = httpx2.Client(transport=transport, trust_env=self.trusts_environment)
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            raise UnusableProxy(str(UnusableProxy.__doc__)) from error

    def run(self, flow: Flow[T]) -> T:
        """Do what a flow takes, and return its result."""
        reply: Answer | Lost | None = None
        while True:
            try:
                effect = flow.send(reply)
            except StopIteration as end:
                result: T = end.value
                return result
            match effect:
                case Sleep(seconds):
                    time.sleep(seconds)
                    reply = None
                case Send(call):
                    try:
                        reply = _answer(self.http.request(**self.request(call)))
                    except _LOST as error:
                        reply = Lost(error)

    def call(self, call: Call[T]) -> T:
        """Send a request, again if need be, and return its result."""
        return self.run(attempts(call, self.retries, address=self.address))

    def items(self, listing: Listing[Item], limit: int | None) -> Iterator[Item]:
        """Read a listing page by page, as its items are used."""
        cursor: str | None = None
        while (size := _page_size(limit)) > 0:
            page = self.call(listing.page(cursor=cursor, size=size))
            yield from page.items
            if (cursor := page.next_cursor) is None:
                return
            limit = None if limit is None else limit - len(page.items)

    def events(self, following: Following) -> Iterator[Event]:
        """Receive the events of a problem, across lost connections."""
        while not following.has_ended:
            lost: Exception | None = None
            try:
                with self.http.stream(**self.stream(following)) as response:
                    following.check(_head(response) if response.is_success else _answer(response, response.read()))
                    if following.has_ended:
                        return
                    for received in httpx2.EventSource(response, max_event_size=None):
                        if (event := following.hear(received)) is not None:
                            yield event
                        if following.has_ended:
                            return
            except _RETRIED as error:
                lost = error
            time.sleep(following.pause_s(lost))


class AsyncConnection(_Settled):
    """Sends requests, and waits, in the event loop of the caller."""

    def __init__(self, configuration: Configuration, transport: httpx2.AsyncBaseTransport | None) -> None:
        super().__init__(configuration)
        try:
            self.http = httpx2.AsyncClient(transport=transport, trust_env=self.trusts_environment)
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            raise UnusableProxy(str(UnusableProxy.__doc__)) from error

    async def run(self, flow: Flow[T]) -> T:
        """Do what a flow takes, and return its result."""
        reply: Answer | Lost | None = None
        while True:
            try:
                effect = flow.send(reply)
            except StopIteration as end:
                result: T = end.value
                return result
            match effect:
                case Sleep(seconds):
                    await asyncio.sleep(seconds)
                    reply = None
                case Send(call):
                    try:
                        reply = _answer(await self.http.request(**self.request(call)))
                    except _LOST as error:
                        reply = Lost(error)

    async def call(self, call: Call[T]) -> T:
        """Send a request, again if need be, and return its result."""
        return await self.run(attempts(call, self.retries, address=self.address))

    async def items(self, listing: Listing[Item], limit: int | None) -> AsyncIterator[Item]:
        """Read a listing page by page, as its items are used."""
        cursor: str | None = None
        while (size := _page_size(limit)) > 0:
            page = await self.call(listing.page(cursor=cursor, size=size))
            for item in page.items:
                yield item
            if (cursor := page.next_cursor) is None:
                return
            limit = None if limit is None else limit - len(page.items)

    async def events(self, following: Following) -> AsyncIterator[Event]:
        """Receive the events of a problem, across lost connections."""
        while not following.has_ended:
            lost: Exception | None = None
            try:
                async with self.http.stream(**self.stream(following)) as response:
                    following.check(
                        _head(response) if response.is_success else _answer(response, await response.aread())
                    )
                    if following.has_ended:
                        return
                    async for received in httpx2.EventSource(response, max_event_size=None):
                        if (event := following.hear(received)) is not None:
                            yield event
                        if following.has_ended:
                            return
            except _RETRIED as error:
                lost = error
            await asyncio.sleep(following.pause_s(lost))


def _page_size(limit: int | None) -> int:
    return PAGE if limit is None else min(limit, PAGE)


def _answer(response: httpx2.Response, content: bytes | None = None) -> Answer:
    return Answer(response.status_code, dict(response.headers), response.content if content is None else content)


def _head(response: httpx2.Response) -> Answer:
    return Answer(response.status_code, dict(response.headers), b"")
