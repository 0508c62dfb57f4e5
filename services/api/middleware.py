"""Middleware for every request: its id and the size of its body."""

from __future__ import annotations

import re
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.clock import SYSTEM_CLOCK

_TOO_LARGE = 413

_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestIds:
    """Adds X-Request-ID to responses and logs: the client's own if it is well-formed, otherwise a random one.

    Notes also when the request arrived.
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

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._app(scope, receive, send_named)


class BodyLimit:
    """Refuses bodies above the limit, whether their length is announced or not.

    The framework has such a limit too, but for announced lengths it responds in plain text, without our error handlers.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        announced = _announced_bytes(scope) if scope["type"] == "http" else 0
        left = self._max_body_bytes

        async def receive_within_limit() -> Message:
            nonlocal left
            if announced > self._max_body_bytes:
                raise HTTPException(_TOO_LARGE)
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(_TOO_LARGE)
            return message

        await self._app(scope, receive_within_limit if scope["type"] == "http" else receive, send)


def _announced_bytes(scope: Scope) -> int:
    length = Headers(scope=scope).get("content-length", "")
    # Truncated because Python refuses to parse thousands of digits.
    return int(length[:19]) if length.isdecimal() else 0
