"""Around every request: its name in its answer and in the logs, and the limits of its body."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.errors import MalformedBody, UnsupportedMediaType

_TOO_LARGE = 413

_SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")

_JSON = re.compile(r"application/(?:[a-z0-9!#$&^_.+-]+\+)?json")
_UTF_8 = ("utf-8", "utf8")


class RequestIds:
    """Middleware: takes the caller's X-Request-ID if it is a sane one, or draws one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _SANE.fullmatch(given) else uuid.uuid4().hex
        scope["trim.request_id"] = request_id

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._app(scope, receive, send_named)


class BodyLimit:
    """Middleware: refuses to read more of a body than allowed, whether its length was announced or not.

    The framework has such a limit, but answers in plain text, past our error handlers, if the length was announced.
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


class JsonRoute(APIRoute):
    """A route that takes JSON in UTF-8 only, and only what is sent as such.

    Python's parser would take UTF-16 and UTF-32 as well (RFC 8259). A body that is sent as something else never reaches
    the parser, and the framework would then say of each field that it is missing.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Put the check before the framework's own handler."""
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            if self.body_field is not None:
                if not _is_json(request.headers.get("content-type", "")):
                    raise UnsupportedMediaType
                if not _is_utf8(await request.body()):
                    raise MalformedBody
            return await handle(request)

        return checked


def _is_json(content_type: str) -> bool:
    """Tell whether a Content-Type is JSON's (RFC 6839 has the suffix), and names no character set but UTF-8."""
    media_type, *parameters = content_type.lower().split(";")
    given = [(name.strip(), value.strip(' \t"')) for name, _, value in (each.partition("=") for each in parameters)]
    return bool(_JSON.fullmatch(media_type.strip())) and all(
        value in _UTF_8 for name, value in given if name == "charset"
    )


def _is_utf8(body: bytes) -> bool:
    if not json.detect_encoding(body).startswith("utf-8"):
        return False
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _announced_bytes(scope: Scope) -> int:
    length = Headers(scope=scope).get("content-length", "")
    # Cut to what can be a length at all: Python refuses to parse thousands of digits.
    return int(length[:19]) if length.isdecimal() else 0
