"""Middleware for every request: its id, its method, and how large and how slow its body may be."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Sequence

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.clock import SYSTEM_CLOCK

SLOWEST_BYTES_PER_S = 1_000
"""Bytes of a body that buy its client another second."""

RESPONSE_HEADERS = "trim.response_headers"
"""Key of the headers, in the scope of a request, that its response gets whatever becomes of it."""

_NO_CONTENT, _NOT_ALLOWED, _TIMED_OUT, _TOO_LARGE = 204, 405, 408, 413

_IS_HEAD = "trim.is_head"

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
"""Methods that a route may have; HEAD and OPTIONS follow from them."""

_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestIds:
    """Adds X-Request-ID to responses and logs: the client's own if it is well-formed, otherwise a random one.

    Notes also when the request arrived, and adds the headers that other parts put into the scope (`RESPONSE_HEADERS`).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _WELL_FORMED.fullmatch(given) else uuid.uuid4().hex
        scope["trim.request_id"] = request_id
        scope["trim.received_at"] = SYSTEM_CLOCK.now()
        added: dict[str, str] = {}
        scope[RESPONSE_HEADERS] = added

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update({"X-Request-ID": request_id, **added})
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._app(scope, receive, send_named)


STREAM_SCOPE = "trim.is_stream"
"""Name in the scope by which a route says that it reads the body as a stream, for which another limit holds."""


class BodyLimit:
    """Refuses bodies above the limit, whether their length is announced or not.

    The framework has such a limit too, but for announced lengths it responds in plain text, without our error handlers.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, max_stream_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._max_stream_bytes = max_stream_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        announced = _announced_bytes(scope) if scope["type"] == "http" else 0
        read = 0

        async def receive_within_limit() -> Message:
            nonlocal read
            limit = self._max_stream_bytes if STREAM_SCOPE in scope else self._max_body_bytes
            if announced > limit:
                raise HTTPException(_TOO_LARGE)
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise HTTPException(_TOO_LARGE)
            return message

        await self._app(scope, receive_within_limit if scope["type"] == "http" else receive, send)


class BodyDeadline:
    """Refuses bodies that arrive too slowly, for example because the client stopped in the middle.

    Otherwise a client could keep a connection, and what was read of the body, for as long as it likes.
    """

    def __init__(self, app: ASGIApp, timeout_s: float) -> None:
        self._app = app
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        until = time.monotonic() + self._timeout_s
        is_complete = scope["type"] != "http"

        async def receive_in_time() -> Message:
            nonlocal until, is_complete
            if is_complete:
                return await receive()
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(_TIMED_OUT, headers={"Connection": "close"}) from None
            until += len(message.get("body", b"")) / SLOWEST_BYTES_PER_S
            is_complete = not message.get("more_body", False)
            return message

        await self._app(scope, receive_in_time, send)


class Methods:
    """Treats HEAD as GET, responds to OPTIONS, and names every method of a path where one is not allowed.

    The framework has one route for each method of a path, and names only those of the first. The server leaves out the
    body of a response to HEAD; `is_head` tells endpoints whose body would take long.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS" and (allowed := self._allowed(scope)):
            await Response(status_code=_NO_CONTENT, headers={"Allow": allowed})(scope, receive, send)
            return
        routed = {**scope, "method": "GET", _IS_HEAD: True} if scope["method"] == "HEAD" else scope
        try:
            await self._app(routed, receive, send)
        except HTTPException as error:
            if error.status_code == _NOT_ALLOWED:
                raise HTTPException(_NOT_ALLOWED, headers={"Allow": self._allowed(scope)}) from error
            raise
        finally:
            scope.update({name: routed[name] for name in ("route", "endpoint") if name in routed})

    def _allowed(self, scope: Scope) -> str:
        """Return the methods of a path, as the header `allow` lists them; empty if there is no such path."""
        found = [method for method in _METHODS if self._has(scope, method)]
        if "GET" in found:
            found.append("HEAD")
        return ", ".join(sorted([*found, "OPTIONS"])) if found else ""

    def _has(self, scope: Scope, method: str) -> bool:
        tried = {**scope, "method": method}
        return any(route.matches(tried)[0] is Match.FULL for route in self._routes)


def is_head(scope: Scope) -> bool:
    """Tell whether a request that is treated as GET has the method HEAD."""
    return _IS_HEAD in scope


def _announced_bytes(scope: Scope) -> int:
    length = Headers(scope=scope).get("content-length", "")
    # Truncated because Python refuses to parse thousands of digits.
    return int(length[:19]) if length.isdecimal() else 0
