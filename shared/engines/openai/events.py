"""Reads what a server streams as server-sent events, or sends as one JSON body although a stream was requested."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx2

from shared.engines.openai.reasons import find_failure

MAX_BODY_BYTES = 1 << 24
"""Maximum size of a body that is no stream."""

_LINE_ENDS = re.compile(rb"\r\n|\n|\r")
"""JSON may contain the other line separators of Unicode, and never these."""

_OTHER_LINES = (b":", b"id:", b"retry:")


class EndOfStream:
    """The server says that its stream is complete."""


END = EndOfStream()


async def read_values(response: httpx2.Response) -> AsyncIterator[Mapping[str, Any] | EndOfStream]:
    """Yield the JSON objects of a body, and `END` where the server says that the stream is complete.

    Comments, other fields, line ends of any kind, `null` and a last line without a line end are read. A character
    outside the Basic Multilingual Plane may come in two halves, as two escapes or as bytes; `mended` joins them.

    Raises:
        ReportedFailure: The server reports a failure in the body.
        ValueError: The body is neither such a stream nor a JSON object.
    """
    body, is_error, has_events = b"", False, False
    async for line in _lines(response):
        if line.startswith(b"data:"):
            has_events = True
            data = line[len(b"data:") :].strip()
            if data == b"[DONE]":
                yield END
            elif data and (value := _object(data)) is not None:
                find_failure(value, is_named_error=is_error)
                yield value
            is_error = False
        elif line.startswith(b"event:"):
            is_error = line[len(b"event:") :].strip() == b"error"
        elif not has_events and not line.startswith(_OTHER_LINES) and len(body) < MAX_BODY_BYTES:
            body += line + b"\n"
    if has_events:
        return
    value = _object(body)
    if value is not None:
        find_failure(value)
        yield value
        yield END


async def read_value(response: httpx2.Response) -> Mapping[str, Any]:
    """Read a body that is one JSON object; raises what `read_values` raises."""
    value = _object(await response.aread())
    if value is None:
        raise ValueError("the body is null")
    find_failure(value)
    return value


def mended(text: str) -> str:
    """Join the halves of characters that were split between two pieces of text; replace halves without the other."""
    if text.isascii() or not _SURROGATES.search(text):
        return text
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    bytes_only = _NO_BYTES.sub("\N{REPLACEMENT CHARACTER}", joined)
    return bytes_only.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


_SURROGATES = re.compile("[\ud800-\udfff]")
_NO_BYTES = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates that do not stand for an undecodable byte (PEP 383)."""


def _object(data: bytes) -> Mapping[str, Any] | None:
    value = json.loads(data.decode("utf-8", "surrogateescape"))
    if value is not None and not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


async def _lines(response: httpx2.Response) -> AsyncIterator[bytes]:
    rest = b""
    async for block in response.aiter_bytes():
        *lines, rest = _LINE_ENDS.split(rest + block)
        for line in lines:
            yield line
    yield rest
