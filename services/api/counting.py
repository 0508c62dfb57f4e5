"""Counts requests and submissions."""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.observe import metrics
from shared.store.submissions import Stored

OTHER: Final = "other"
"""Label of requests that match no route, and of methods that no route has: clients must not invent labels."""

STREAM: Final = "text/event-stream"
"""Media type of streams."""

UNTIMED: Final = "trim.is_untimed"
"""Key of the scope of a request that lasts as long as its problem."""

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def count_submitted(stored: Stored) -> None:
    """Count the problems that a request has queued; a repeated request has queued none."""
    for policy, count in Counter(stored.policies).items():
        metrics.PROBLEMS_SUBMITTED.labels(policy).inc(count)


class RequestCounts:
    """Counts each request by method, route and status, and measures how long it took to answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 500
        # Requests that last as long as problems do would hide how long the others take.
        is_timed = b"wait_s=" not in scope["query_string"]

        async def send_noted(message: Message) -> None:
            nonlocal status, is_timed
            if message["type"] == "http.response.start":
                status = message["status"]
                is_timed &= not Headers(raw=message["headers"]).get("content-type", "").startswith(STREAM)
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        finally:
            method = scope["method"] if scope["method"] in METHODS else OTHER
            route = getattr(scope.get("route"), "path", OTHER)
            metrics.HTTP_REQUESTS.labels(method, route, status).inc()
            if is_timed and UNTIMED not in scope:
                metrics.HTTP_REQUEST_SECONDS.labels(method, route).observe(time.monotonic() - began)
