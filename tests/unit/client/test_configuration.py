"""Where a client connects, with which key, and through which proxies."""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest

from shared import this_machine
from tests.unit.client import samples
from tests.unit.client.samples import PROBLEM_ID
from tests.unit.client.service import answer
from trim_client import AsyncClient, Client, UnusableProxy, addresses


class Answer(BaseHTTPRequestHandler):
    """Answers every request with a problem whose question is the path."""

    def do_GET(self) -> None:
        body = json.dumps(samples.problem(question=self.path)).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_requests_to_this_machine_go_through_no_proxy(
    address: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with Client(address) as client:
        assert client.problems.get(PROBLEM_ID).question == f"/v1/problems/{PROBLEM_ID}"


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "socks9://127.0.0.1:9", "http://x:port"])
def test_a_proxy_that_cannot_be_used_matters_for_other_machines_alone(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    for kind in (Client, AsyncClient):
        with pytest.raises(UnusableProxy, match=r"^A proxy of the environment cannot be used; change http_proxy"):
            kind("http://trim.example.com")
        kind("http://localhost:1")
        kind("http://trim.example.com", trust_env=False)


def test_the_rule_for_this_machine_is_that_of_the_service() -> None:
    ours, theirs = (inspect.getsource(each.is_this_machine) for each in (addresses, this_machine))
    assert ours == theirs


def test_the_path_of_the_address_precedes_every_path_of_the_api(address: str) -> None:
    for given in (f"{address}/trim", f"{address}/trim/"):
        with Client(given) as client:
            assert client.problems.get(PROBLEM_ID).question == f"/trim/v1/problems/{PROBLEM_ID}"


def test_threads_share_a_client(address: str) -> None:
    with Client(address) as client, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: client.problems.get(PROBLEM_ID).id, range(40)))
    assert found == [PROBLEM_ID] * 40


@pytest.mark.parametrize("wrong", ["ftp://x", "x:8080", "http://", "http://x:abc", "http://x:99999", "http://["])
def test_what_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="is not an address such as"):
        Client(wrong)


@pytest.mark.parametrize("arguments", [{"timeout": 0}, {"max_retries": -1}, {"api_key": "a\nb"}, {"api_key": "ä"}])
def test_arguments_that_cannot_be_used_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"timeout|API key"):
        Client("http://127.0.0.1:1", **arguments)  # type: ignore[arg-type]


def test_a_client_with_other_limits_shares_key_and_connections() -> None:
    limits: list[object] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        limits.append((request.extensions["timeout"]["read"], request.headers["authorization"]))
        return answer({"status": "live"})

    with Client("http://x", api_key="key", transport=httpx2.MockTransport(handle)) as client:
        hasty = client.with_options(timeout=2, max_retries=0)
        for each in (client, hasty, hasty.with_options(), hasty.with_options(timeout=3)):
            each.health.live()
        assert hasty.problems is not client.problems
        with pytest.raises(ValueError, match="timeout"):
            client.with_options(timeout=0)
    assert limits == [(30, "Bearer key"), (2, "Bearer key"), (2, "Bearer key"), (3, "Bearer key")]
    with pytest.raises(RuntimeError, match="closed"):
        hasty.health.live()


def test_address_and_key_come_from_the_environment_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIM_SERVER", "http://localhost:1/")
    monkeypatch.setenv("TRIM_API_KEY", " key\n")
    seen: list[str | None] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        seen.append(f"{request.url} {request.headers.get('authorization')}")
        return answer({"status": "live"})

    for arguments in ({}, {"base_url": "http://localhost:2", "api_key": "other"}, {"api_key": ""}):
        with Client(transport=httpx2.MockTransport(handle), **arguments) as client:  # type: ignore[arg-type]
            client.health.live()
    assert seen == [
        "http://localhost:1/health/live Bearer key",
        "http://localhost:2/health/live Bearer other",
        "http://localhost:1/health/live None",
    ]
