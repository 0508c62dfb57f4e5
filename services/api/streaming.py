"""Responses that are streams of server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Send

KEEP_ALIVE: Final = b": keep-alive\n\n"
"""A comment. Clients ignore it, and proxies keep the connection open."""

HEADERS: Final = {
    "Cache-Control": "no-store",
    # nginx would collect a stream before it forwards it.
    "X-Accel-Buffering": "no",
}


class EventStream(StreamingResponse):
    """Sends the parts of a stream as they come, until they end or the client leaves; then closes their iterator.

    Not the framework's class: its endpoints must be generators, which cannot refuse a request any more.
    """

    media_type = "text/event-stream"

    def __init__(self, parts: AsyncGenerator[bytes]) -> None:
        super().__init__(parts, headers=HEADERS)
        self._parts = parts

    async def stream_response(self, send: Send) -> None:
        """Send the parts. The framework alone leaves it to the garbage collector to close their iterator."""

        async def send_in_turn(message: Message) -> None:
            await send(message)
            await asyncio.sleep(0)  # Other requests, and the news that the client has left, come before the next part.

        async with aclosing(self._parts):
            await super().stream_response(send_in_turn)

    async def listen_for_disconnect(self, receive: Receive) -> None:
        """Return when the client leaves, or does not complete a body that nobody reads."""
        with suppress(HTTPException):
            await super().listen_for_disconnect(receive)
