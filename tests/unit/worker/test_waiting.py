"""A worker process whose model's server is away: it waits, names that to operators, and stops when it is asked to."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from contextlib import closing

from tests.scraping import fetch_json

PATIENCE_S = 60.0


def unused_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        port: int = unused.getsockname()[1]
        return port


def test_a_worker_without_its_models_server_is_alive_and_unready_and_ends_on_sigterm() -> None:
    port = unused_port()
    variables = {
        "TRIM_ENGINE": "openai", "TRIM_SMALL_URL": f"http://127.0.0.1:{unused_port()}/v1", "TRIM_SMALL_MODEL": "small",
        "TRIM_BROKER_URL": "amqp://127.0.0.1:9", "TRIM_METRICS_PORT": str(port), "PYTHONPATH": ":".join(sys.path),
    }  # fmt: skip
    worker = subprocess.Popen(
        [sys.executable, "-m", "services.generator", "small"], env=variables, stderr=subprocess.PIPE
    )
    try:
        until = time.monotonic() + PATIENCE_S
        detail = ""
        while "TRIM_SMALL_URL cannot be reached" not in detail:
            assert worker.poll() is None, worker.communicate()
            assert time.monotonic() < until, detail
            try:
                status, body = fetch_json(f"http://127.0.0.1:{port}/ready")
                detail = body["conditions"][0]["detail"]
            except OSError:  # It does not listen yet.
                time.sleep(0.05)
        assert (status, body["conditions"][0]["name"], body["conditions"][0]["is_met"]) == (503, "engine", False)
        assert fetch_json(f"http://127.0.0.1:{port}/live")[0] == 200
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_S) == 0
    finally:
        worker.kill()
        worker.communicate()
