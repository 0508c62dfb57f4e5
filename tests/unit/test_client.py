"""The REST API as plain JSON: what it adds to the Python client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from shared.proxies import UnusableProxy
from stack.client import Api, ApiRefused, NotTheService


class Answer(BaseHTTPRequestHandler):
    """Answers every request with its path; `/status/N` with that status and a page."""

    def do_GET(self) -> None:
        status = int(self.path.split("/")[2]) if self.path.startswith("/status/") else None
        found = {"key": self.headers.get("authorization")} if self.path == "/key" else {"id": self.path}
        body = json.dumps(found).encode() if status is None else b"<html>A page</html>"
        self.send_response(status or 200)
        if status == 302:
            self.send_header("location", "/login")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "socks9://127.0.0.1:9", "http://x:port"])
def test_a_proxy_that_cannot_be_used_is_one_sentence_and_does_not_matter_on_this_machine(
    address: str, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(UnusableProxy, match=r"^A proxy of the environment cannot be used; change http_proxy"):
        Api("http://trim.example.com")
    for is_here, given in ((False, address), (True, "http://trim.example.com")):
        with Api(given, is_here=is_here) as api:
            assert is_here or api.get("/v1/policies") == {"id": "/v1/policies"}


def test_only_a_key_that_is_given_is_sent(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIM_API_KEY", "of another service")
    for key in (None, "mine"):
        with Api(address, key=key) as api:
            assert api.get("/key")["key"] == (key and f"Bearer {key}")


@pytest.mark.parametrize("status", [200, 302, 304])
def test_an_answer_of_something_else_says_to_check_the_address(address: str, status: int) -> None:
    with (
        Api(address) as api,
        pytest.raises(NotTheService, match=r"does not answer as this service .* check --server\."),
    ):
        api.get(f"/status/{status}")


@pytest.mark.parametrize(("status", "passes"), [(429, True), (502, True), (503, True), (504, True), (500, False)])
def test_a_refusal_tells_whether_the_same_request_may_succeed_later(address: str, status: int, passes: bool) -> None:
    with Api(address) as api, pytest.raises(ApiRefused) as refused:
        api.get(f"/status/{status}")
    assert refused.value.may_pass is passes


@pytest.mark.parametrize("wrong", ["ftp://x", "x:8080", "http://", "http://x:abc", "http://x:99999", "http://["])
def test_what_is_no_address_is_a_usage_error(wrong: str) -> None:
    with pytest.raises(ValueError, match="is not an address such as"):
        Api(wrong)
