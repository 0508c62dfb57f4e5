"""HTTP on one connection, with a limit on how long a client may take to send a header."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedProtocol(H11Protocol):
    """Closes a connection whose client does not complete a request's header in time.

    The server's own limit covers connections that are idle after a response. It ends with the first byte of the next
    request, and does not begin before the first response. While the app handles a request, `BodyDeadline` limits how
    long the body may take. What a client still sends of a body after the response falls under the limit here.
    """

    def __init__(self, *arguments: Any, request_timeout_s: float, **named: Any) -> None:
        """Take the server's arguments, and the seconds that a header may take."""
        super().__init__(*arguments, **named)
        self._request_timeout_s: Final = request_timeout_s
        self._timer: asyncio.TimerHandle | None = None

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
        """Stop the time."""
        self._stop_timer()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self._request_timeout_s, self.timeout_keep_alive_handler)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
