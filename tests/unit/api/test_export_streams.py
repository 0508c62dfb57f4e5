"""Exports on a real connection: a client sees that one breaks off, and one that does not read is cut off."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from structlog.testing import capture_logs

from services.api import protocol
from services.api.exports.formats import Lines
from services.api.exports.portions import Portion, Reader
from services.api.exports.streaming import stream
from services.api.server import configure
from shared.settings import Settings
from shared.store.database import DatabaseUnavailable

PATIENCE_S = 30.0


class Portions:
    """Reads as many portions as a test wants, then breaks."""

    def __init__(self, count: float) -> None:
        self.read_count = 0
        self._count = count

    def read(self, cursor: str | None) -> Portion:
        self.read_count += 1
        if self.read_count > self._count:
            raise DatabaseUnavailable
        return Portion((), "next")


@contextmanager
def exporting(portions: Portions, write: Callable[[Portion], bytes]) -> Iterator[tuple[str, int]]:
    """Serve an export for the duration of the block."""
    app = FastAPI()

    @app.get("/export")
    async def export() -> StreamingResponse:
        return StreamingResponse(stream(cast("Reader", portions), Lines(write), portions.read(None)))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(configure(app, Settings()))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[:2]
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def test_a_client_sees_that_an_export_breaks_off() -> None:
    with capture_logs() as logged, exporting(Portions(3), lambda _: b"a line\n") as (host, port):
        with (
            httpx2.Client(timeout=PATIENCE_S) as http,
            http.stream("GET", f"http://{host}:{port}/export") as response,
            pytest.raises(httpx2.RemoteProtocolError),
        ):
            response.read()
        assert response.status_code == 200
    assert [each["code"] for each in logged if each["event"] == "export_broken"] == ["database_unavailable"]


def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "SLOWEST_READ_S", 0.3)
    portions = Portions(float("inf"))
    with exporting(portions, lambda _: b"x" * 1_000_000) as address, socket.create_connection(address) as client:
        client.settimeout(PATIENCE_S)
        client.sendall(b"GET /export HTTP/1.1\r\nHost: api\r\n\r\n")
        before = -1
        while portions.read_count != before:  # The export waits for the client, and then for nobody.
            before = portions.read_count
            time.sleep(0.5)
        received = b"".join(iter(lambda: client.recv(1_000_000), b""))
        assert not received.endswith(b"0\r\n\r\n"), "the end of a complete response"
        assert portions.read_count == before
