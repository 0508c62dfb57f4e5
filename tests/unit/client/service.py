"""A service that answers as a test scripts it, for both clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2

from trim_client import AsyncClient, Client

ADDRESS = "http://trim.example.com/api"


class Chunks(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body that arrives in pieces; one that is an exception breaks the connection."""

    def __init__(self, pieces: Iterable[bytes | Exception]) -> None:
        self._pieces = list(pieces)

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


Reply = httpx2.Response | Exception


def answer(body: Any, status: int = 200, **headers: str) -> httpx2.Response:
    """Return an answer with JSON, or with the text of a page."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(body, str):
        return httpx2.Response(status, text=body, headers=named)
    return httpx2.Response(status, json=body, headers=named)


def page(items: list[Any], cursor: str | None = None) -> httpx2.Response:
    """Return a page of a listing."""
    return answer({"items": items, "next_cursor": cursor})


def events(*parts: tuple[str, str, Any] | Exception) -> httpx2.Response:
    """Return a stream of events, each with its kind, id and data; an exception breaks the connection."""
    pieces = [each if isinstance(each, Exception) else _encoded(*each) for each in parts]
    headers = {"content-type": "text/event-stream; charset=utf-8"}
    return httpx2.Response(200, headers=headers, stream=Chunks([b": keep-alive\n\n", *pieces]))


def _encoded(kind: str, event_id: str, data: Any) -> bytes:
    return f"event: {kind}\nid: {event_id}\ndata: {json.dumps(data)}\n\n".encode()


@dataclass
class Service:
    """Answers requests in the order of its script, through one of the two clients."""

    is_async: bool
    sleeps: list[float]
    """Seconds that the client has slept."""
    script: list[Reply] = field(default_factory=list)
    requests: list[httpx2.Request] = field(default_factory=list)

    def answers(self, *replies: Reply) -> None:
        """Set what follows."""
        self.script += replies

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        """Answer a request."""
        request.read()
        return self._next(request)

    async def handle_async(self, request: httpx2.Request) -> httpx2.Response:
        """Answer a request."""
        await request.aread()
        return self._next(request)

    def call(self, use: Callable[[Any], Any], **arguments: Any) -> Any:
        """Call a method of a client; the items of a listing, or events of a stream, are returned as a list."""
        if self.is_async:
            return asyncio.run(self._call(use, **arguments))
        with Client(ADDRESS, transport=httpx2.MockTransport(self.handle), **arguments) as client:
            found = use(client)
            return list(found) if isinstance(found, Iterator) else found

    async def _call(self, use: Callable[[Any], Any], **arguments: Any) -> Any:
        async with AsyncClient(ADDRESS, transport=httpx2.MockTransport(self.handle_async), **arguments) as client:
            found = use(client)
            if isinstance(found, AsyncIterator):
                return [each async for each in found]
            return await found

    def _next(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        reply = self.script.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply
