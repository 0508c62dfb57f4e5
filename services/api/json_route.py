"""Routes that accept JSON in UTF-8."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from services.api.errors import MalformedBody, UnsupportedMediaType

_JSON = re.compile(r"application/(?:[a-z0-9!#$&^_.+-]+\+)?json")
_UTF_8 = ("utf-8", "utf8")


class JsonRoute(APIRoute):
    """A route that accepts only JSON in UTF-8 with a matching content type.

    Python's parser also accepts UTF-16 and UTF-32, which RFC 8259 excludes. With another content type, the
    framework would skip the parser and report each field as missing.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the framework's handler with the check before it."""
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
    """Tell whether a content type is JSON (RFC 6839 defines the suffix) and names no character set except UTF-8."""
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
