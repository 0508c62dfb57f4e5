"""The API as a process: how it starts, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import pytest
from sqlalchemy import text

from shared.store.database import Database
from tests.integration.api.calls import PATIENCE_S, QUESTION, is_blocked, until

pytestmark = pytest.mark.servers


def run_api(**environment: str) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRIM_")}
    return subprocess.Popen(
        [sys.executable, "-m", "services.api"],
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def served(database: Database, **environment: str) -> Iterator[str]:
    """Run the API at a free port for the duration of the block, and yield its address."""
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    settings = {"TRIM_DATABASE_URL": url, "TRIM_API_PORT": "0", "TRIM_LOG_FORMAT": "json"}
    with run_api(**settings, **environment) as process:
        try:
            assert process.stderr is not None
            yield next(found["address"] for line in process.stderr if "address" in (found := json.loads(line)))
        finally:
            process.kill()


class StrippingProxy(httpx2.BaseTransport):
    """A proxy that serves a server under a path, which it strips."""

    def __init__(self, address: str, path: str) -> None:
        self._address = httpx2.URL(address)
        self._path = path.encode()
        self._server = httpx2.HTTPTransport()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        assert request.url.raw_path.startswith(self._path + b"/"), request.url
        raw_path = request.url.raw_path.removeprefix(self._path)
        request.url = self._address.copy_with(raw_path=raw_path)
        return self._server.handle_request(request)

    def close(self) -> None:
        self._server.close()


def test_links_lead_through_a_proxy_that_serves_the_api_under_a_path(database: Database) -> None:
    with (
        served(database, TRIM_API_ROOT_PATH="/trim") as address,
        httpx2.Client(transport=StrippingProxy(address, "/trim"), timeout=PATIENCE_S) as http,
    ):
        outside = httpx2.URL("https://host.example/trim/v1/problems")
        made = http.post(outside, json=QUESTION)
        assert made.headers["location"] == made.json()["links"]["self"]
        batch = http.post(outside.join("batches"), json={"problems": [QUESTION, QUESTION]})
        for link in (*made.json()["links"].values(), *batch.json()["links"].values(), batch.headers["location"]):
            # A stream goes on until the problem ends.
            with http.stream("POST" if link.endswith("/cancel") else "GET", outside.join(link)) as response:
                assert response.is_success, link
        pages = [http.get(outside, params={"limit": "1"}).json()]
        pages.append(http.get(outside, params={"limit": "1", "cursor": pages[0]["next_cursor"]}).json())
        assert all(http.get(outside.join(page["items"][0]["links"]["self"])).is_success for page in pages)
        assert http.get(outside.join("/trim/openapi.json")).json()["servers"] == [{"url": "/trim"}]
        assert httpx2.get(f"{address}/health/live").is_success, "without the proxy"


def test_without_the_databases_address_the_process_ends_with_one_sentence() -> None:
    with run_api() as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert out == ""
    assert "TRIM_DATABASE_URL" in err
    assert len(err.splitlines()) == 1


def test_the_process_serves_at_a_free_port_and_stops_on_sigterm_even_while_a_client_waits(database: Database) -> None:
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with run_api(TRIM_DATABASE_URL=url, TRIM_API_PORT="0", TRIM_LOG_FORMAT="json") as process:
        try:
            assert process.stderr is not None
            address = next(found["address"] for line in process.stderr if "address" in (found := json.loads(line)))
            with httpx2.Client(base_url=address, timeout=PATIENCE_S) as http, ThreadPoolExecutor(1) as pool:
                made = http.post("/v1/problems", json=QUESTION)
                assert made.status_code == 201
                path = made.headers["location"]
                with database.session() as session:
                    # Locked out, the request is known to be there: it waits for its first look.
                    session.execute(text("LOCK TABLE problems IN ACCESS EXCLUSIVE MODE"))
                    waiting = pool.submit(http.get, f"{path}?wait_s=60")
                    until(lambda: is_blocked(database))
                    process.send_signal(signal.SIGTERM)
                before = time.monotonic()
                assert waiting.result(PATIENCE_S).json()["status"] == "queued"
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert time.monotonic() - before < 10
    assert process.returncode == 0, err
    assert out == ""
    assert "Traceback" not in err
    assert any(json.loads(line)["event"] == "api_stopped" for line in err.splitlines())
