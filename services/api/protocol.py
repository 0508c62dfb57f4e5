"""HTTP on one connection, with limits on how long a client may take to send a header, and to read a response."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

SLOWEST_READ_S: Final = 60.0
"""Seconds in which a client must read 48 of the 64 KiB that the server buffers for it, once they are full."""


class TimedProtocol(H11Protocol):
    """Closes a connection whose client does not complete a request's header in time, or stops reading.

    The server's own limit covers connections that are idle after a response. It ends with the first byte of the next
    request, and does not begin before the first response. While the app handles a request, `BodyDeadline` limits how
    long the body may take. What a client still sends of a body after the response falls under the limit here.

    While a client does not read, the app waits with the next part of its response, so the client costs a bounded amount
    of memory; the limit here bounds for how long.
    """

    def __init__(self, *arguments: Any, request_timeout_s: float, **named: Any) -> None:
        """Take the server's arguments, and the seconds that a header may take."""
        super().__init__(*arguments, **named)
        self._request_timeout_s: Final = request_timeout_s
        self._timer: asyncio.TimerHandle | None = None
        self._reading_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time of the first request."""
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Start the time at a request's first byte, and stop it once the app has the request."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self._timer is None:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the times."""
        self._stop_timer()
        self._stop_reading_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the time in which the client must read: the buffer is full."""
        super().pause_writing()
        self._stop_reading_timer()
        # Not closed, which would wait until the client has read the buffer.
        self._reading_timer = self.loop.call_later(SLOWEST_READ_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the time: the client has read most of the buffer."""
        self._stop_reading_timer()
        super().resume_writing()

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self._request_timeout_s, self.timeout_keep_alive_handler)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_reading_timer(self) -> None:
        if self._reading_timer is not None:
            self._reading_timer.cancel()
            self._reading_timer = None
