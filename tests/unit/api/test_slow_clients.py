"""Clients that stop in the middle of a request, send it drop by drop, or leave."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import uuid4

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI
from structlog.testing import capture_logs

from services.api import protocol
from services.api.app import create_app
from services.api.errors import CLIENT_GONE
from services.api.following import Following, Stepped
from services.api.native import problems
from services.api.schemas.record import Step
from services.api.server import configure
from shared.domain.drafts import Finish
from shared.domain.roles import Author
from shared.domain.status import Status
from shared.observe.metrics import HTTP_REQUESTS
from shared.settings import Settings
from shared.store.database import Database
from shared.store.progress import Place
from tests.integration.api.calls import is_refusal

PATIENCE_S = 30.0
SHORT_S = 0.2
NOBODY = "postgresql://postgres@127.0.0.1:9/trim"

POST = b"POST /v1/problems HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: api\r\n\r\n"


@dataclass
class Served:
    """An app that serves, and its clients in the order of what they sent."""

    app: FastAPI
    clients: list[socket.socket]


@contextmanager
def serving(*sent: bytes, **settings: float) -> Iterator[Served]:
    """Serve the API without a database to clients whose first bytes are there before the server looks."""
    chosen = Settings.model_validate({f"api_{name}": value for name, value in settings.items()})
    with ExitStack() as stack:
        app = create_app(chosen, stack.enter_context(closing(Database(NOBODY))))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        clients = []
        for each in sent:
            client = stack.enter_context(socket.create_connection(listener.getsockname(), timeout=PATIENCE_S))
            client.sendall(each)
            clients.append(client)
        config = configure(app, chosen)
        config.lifespan = "off"  # Nothing follows the database, which is not there.
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield Served(app, clients)
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def read_all(client: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    return b"".join(iter(lambda: client.recv(65_536), b""))


def read_liveness(client: socket.socket) -> None:
    """Read the response to `LIVE`."""
    read = b""
    while not read.endswith(b"}"):
        part = client.recv(65_536)
        assert part, "the connection was closed"
        read += part
    assert read.startswith(b"HTTP/1.1 200 ")


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.01)


@pytest.mark.parametrize("sent", [b"", b"GET /health/live HTT", LIVE[:-2]])
def test_a_connection_without_a_complete_header_is_closed(sent: bytes) -> None:
    with serving(sent, request_timeout_s=SHORT_S) as served:
        assert read_all(served.clients[0]) == b""


def test_a_connection_whose_second_header_is_incomplete_is_closed() -> None:
    with serving(LIVE, request_timeout_s=SHORT_S) as served:
        [client] = served.clients
        read_liveness(client)
        client.sendall(LIVE[:-2])
        assert read_all(client) == b""


def test_a_drop_now_and_then_does_not_prolong_the_time_of_a_header() -> None:
    with serving(b"GET /", request_timeout_s=SHORT_S) as served:
        [client] = served.clients
        client.settimeout(SHORT_S / 10)
        deadline, is_open = time.monotonic() + PATIENCE_S, True
        while is_open:
            assert time.monotonic() < deadline
            try:
                client.sendall(b"x")
                is_open = client.recv(1) != b""
            except TimeoutError:
                continue
            except ConnectionError:
                is_open = False


def test_an_idle_connection_is_kept_longer_than_a_header_may_take_and_as_long_as_the_setting_allows() -> None:
    with serving(LIVE, b"", request_timeout_s=SHORT_S) as served:
        client, silent = served.clients
        read_liveness(client)
        assert read_all(silent) == b"", "the time of a header is over"
        client.sendall(LIVE)
        read_liveness(client)
    with serving(LIVE, keep_alive_s=1) as served:
        assert read_all(served.clients[0]).endswith(b"}"), "closed once it was idle for the time of the setting"


@pytest.mark.parametrize("sent", [b"", b'{"question":'])
def test_half_a_body_is_refused_and_the_connection_closed(sent: bytes) -> None:
    with serving(POST + sent, request_timeout_s=SHORT_S) as served:
        head, _, body = read_all(served.clients[0]).decode().partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    headers = dict(each.split(": ", 1) for each in lines)
    response = httpx2.Response(int(status.split()[1]), headers=headers, content=body)
    is_refusal(response, 408, "request_timeout")
    assert response.headers["connection"] == "close"


def test_the_rest_of_a_body_that_was_refused_early_keeps_no_connection_open() -> None:
    with serving(POST.replace(b"application/json", b"text/plain"), request_timeout_s=SHORT_S) as served:
        [client] = served.clients
        assert b" 415 " in client.recv(65_536)
        client.sendall(b"{")
        read_all(client)


def test_a_client_that_leaves_in_the_middle_of_a_body_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    counted = HTTP_REQUESTS.labels("POST", "/v1/problems", CLIENT_GONE)
    before = counted._value.get()
    with capture_logs() as lines, serving(POST + b'{"question":') as served:
        served.clients[0].close()
        until(lambda: counted._value.get() > before)
    assert [each for each in lines if each["log_level"] not in ("debug", "info")] == []
    assert [each for each in caplog.records if each.levelname not in ("DEBUG", "INFO")] == []


def test_a_client_that_leaves_while_it_waits_is_no_failure_and_forgotten(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problems, "_read", lambda *_, **__: SimpleNamespace(status=Status.RUNNING))
    counted = HTTP_REQUESTS.labels("GET", "/v1/problems/{problem_id}", CLIENT_GONE)
    before = counted._value.get()
    wait = f"GET /v1/problems/{uuid4()}?wait_s=60 HTTP/1.1\r\nHost: api\r\n\r\n".encode()
    with capture_logs() as lines, serving(wait) as served:
        until(lambda: len(served.app.state.waiting) == 1)
        served.clients[0].close()
        until(lambda: counted._value.get() > before)
        assert len(served.app.state.waiting) == 0
    assert [each for each in lines if each["log_level"] not in ("debug", "info")] == []
    assert [each for each in caplog.records if each.levelname not in ("DEBUG", "INFO")] == []


def test_a_client_that_does_not_read_its_stream_holds_up_its_source_and_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "SLOWEST_READ_S", SHORT_S)
    step = Step(
        step=0, author=Author.SMALL, text="x" * 10_000, finish=Finish.SEPARATOR, tokens=1, score=None, model="m",
        worker="w", waited_ms=0, worked_ms=0, accepted_at=datetime.now(UTC),
    )  # fmt: skip
    sent, has_ended = 0, threading.Event()

    async def happen() -> AsyncGenerator[Stepped]:
        nonlocal sent
        try:
            while True:
                yield Stepped(step, Place())
                sent += 1
        finally:
            has_ended.set()

    async def follow_problem(*_: object, **__: object) -> AsyncGenerator[Stepped]:
        return happen()

    monkeypatch.setattr(Following, "follow_problem", follow_problem)
    with serving(f"GET /v1/problems/{uuid4()}/events HTTP/1.1\r\nHost: api\r\n\r\n".encode()):
        assert has_ended.wait(PATIENCE_S)
    # What the server and the systems of both sides buffer.
    assert sent < 5000
