"""The listener of a process, and the container health check that asks it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from shared.addresses import AddressUnusable
from shared.observe import endpoints
from shared.observe.endpoints import listening
from shared.observe.health import Health
from shared.observe.probe import shortcomings
from shared.process import EXIT_USAGE
from tests.scraping import fetch, fetch_json


@pytest.fixture
def health() -> Health:
    return Health(role="small", node="small-0", conditions=("engine", "broker"))


@pytest.fixture
def address(health: Health) -> Iterator[str]:
    with listening(health, host="127.0.0.1", port=0) as port:
        yield f"http://127.0.0.1:{port}"


def test_ready_answers_503_with_each_condition_until_all_are_met(health: Health, address: str) -> None:
    health.meet("engine", "The model answers.")
    health.miss("broker", "The broker does not answer.")
    status, body = fetch_json(f"{address}/ready")
    assert status == 503
    assert (body["ready"], body["role"], body["node"]) == (False, "small", "small-0")
    [engine, broker] = body["conditions"]
    assert engine == {
        "name": "engine", "is_met": True, "detail": "The model answers.",
        "since": health.conditions[0].since.isoformat(),
    }  # fmt: skip
    assert (broker["name"], broker["is_met"], broker["detail"]) == ("broker", False, "The broker does not answer.")
    health.meet("broker", "The broker answers.")
    status, body = fetch_json(f"{address}/ready")
    assert (status, body["ready"]) == (200, True)


def test_live_answers_503_with_the_reason_once_the_process_makes_no_progress(health: Health, address: str) -> None:
    assert fetch_json(f"{address}/live") == (200, {"live": True, "role": "small", "node": "small-0", "defects": []})
    health.break_down("The engine broke down.")
    status, body = fetch_json(f"{address}/live")
    assert (status, body["live"], body["defects"]) == (503, False, ["The engine broke down."])


def test_metrics_are_in_the_format_of_prometheus_and_other_paths_are_not_found(address: str) -> None:
    status, text = fetch(f"{address}/metrics")
    assert status == 200
    assert "# TYPE process_cpu_seconds_total counter\n" in text
    status, body = fetch_json(f"{address}/")
    assert (status, body) == (404, {"paths": ["/metrics", "/live", "/ready", "/ready/engine", "/ready/broker"]})


def test_one_condition_can_be_asked_alone(health: Health, address: str) -> None:
    health.meet("engine", "The model answers.")
    health.miss("broker", "The broker does not answer.")
    status, body = fetch_json(f"{address}/ready/engine")
    assert (status, body["ready"], [each["name"] for each in body["conditions"]]) == (200, True, ["engine"])
    assert fetch_json(f"{address}/ready/broker")[0] == 503
    assert fetch_json(f"{address}/ready/database")[0] == 404


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("localhost", ["localhost"]),
        ("0.0.0.0", ["127.0.0.1"]),
        ("::1", ["[::1]"]),
        ("::", ["[::1]", "127.0.0.1"]),
    ],
)
def test_it_listens_on_ipv4_and_ipv6_and_the_probe_finds_it(health: Health, host: str, asked: list[str]) -> None:
    if ":" in host and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    health.meet("engine", "The model answers.")
    health.meet("broker", "The broker answers.")
    with listening(health, host=host, port=0) as port:
        for each in asked:
            assert fetch(f"http://{each}:{port}/ready")[0] == 200
        assert shortcomings({"TRIM_METRICS_HOST": host, "TRIM_METRICS_PORT": str(port)}) == []


def test_a_client_that_sends_nothing_blocks_no_other(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)))):
        assert fetch(f"{address}/live")[0] == 200


def connect(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


@pytest.mark.parametrize("request_line", [b"", b"GET /li", b"\x16\x03\x01\r\n\r\n"])
def test_a_client_that_sends_no_request_leaves_no_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], address: str, request_line: bytes
) -> None:
    monkeypatch.setattr(endpoints._Handler, "timeout", 0.05)
    with closing(connect(address)) as client:
        client.sendall(request_line)
        while client.recv(1024):  # until the server has given up
            pass
    assert capfd.readouterr().err == ""


def test_a_client_that_does_not_take_its_answer_leaves_no_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], health: Health
) -> None:
    monkeypatch.setattr(endpoints._Handler, "timeout", 0.05)
    health.break_down("x" * 20_000_000)
    with listening(health, host="127.0.0.1", port=0) as port, closing(connect(f"http://127.0.0.1:{port}")) as client:
        client.sendall(b"GET /live HTTP/1.0\r\n\r\n")
        client.recv(1)
        while any(each.name.endswith("(process_request_thread)") for each in threading.enumerate()):
            pass
    assert capfd.readouterr().err == ""


def test_of_many_connections_the_oldest_end_and_others_are_answered(address: str) -> None:
    clients = [connect(address) for _ in range(endpoints.MAX_CONNECTIONS + 2)]
    try:
        assert [client.recv(1) for client in clients[:2]] == [b"", b""]
        assert fetch(f"{address}/live")[0] == 200
    finally:
        for each in clients:
            each.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_cannot_be_used_is_one_sentence(health: Health, host: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        expected = rf"on port {port} of {host} \(.*\); stop what listens there, or set TRIM_METRICS_PORT or TRIM_METR"
        with pytest.raises(AddressUnusable, match=expected), listening(health, host=host, port=port):
            pass


@pytest.mark.parametrize("module", [["services.api"], ["services.orchestrator"], ["services.generator", "small"]])
def test_a_process_whose_metrics_port_is_taken_exits_with_that_sentence(module: list[str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        variables = {"TRIM_METRICS_PORT": str(taken.getsockname()[1]), "PYTHONPATH": ":".join(sys.path)}
        ended = subprocess.run(
            [sys.executable, "-m", *module], env=variables, capture_output=True, text=True, timeout=60, check=False
        )
    assert ended.returncode == EXIT_USAGE
    assert "TRIM_METRICS_PORT" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def probe(address: str) -> subprocess.CompletedProcess[str]:
    variables = {"TRIM_METRICS_PORT": address.rpartition(":")[2], "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "shared.observe.probe"]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)


def test_the_probe_prints_what_is_wrong_and_exits_accordingly(health: Health, address: str) -> None:
    health.miss("engine", "The model is being loaded.")
    health.meet("broker", "The broker answers.")
    asked = probe(address)
    assert (asked.returncode, asked.stdout) == (1, "engine: The model is being loaded.\n")
    health.meet("engine", "The model answers.")
    asked = probe(address)
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, "", "")
    health.break_down("The engine broke down.")
    asked = probe(address)
    assert (asked.returncode, asked.stdout) == (1, "The engine broke down.\n")


def test_the_probe_reports_a_process_that_does_not_answer_and_a_port_that_is_not_set() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        port = unused.getsockname()[1]
    [sentence] = shortcomings({"TRIM_METRICS_PORT": str(port)})
    assert sentence == f"The process does not answer on port {port} of 127.0.0.1 (ConnectionRefusedError)."
    for variables in ({}, {"TRIM_METRICS_PORT": ""}, {"TRIM_METRICS_PORT": "0"}):
        [sentence] = shortcomings(variables)
        assert sentence.startswith("TRIM_METRICS_PORT does not name the port to ask")


def test_the_probe_loads_nothing_but_the_standard_library() -> None:
    loaded = (
        "import shared.observe.probe, sys;"
        " print({name.partition('.')[0] for name in sys.modules} & {'pydantic', 'structlog', 'prometheus_client'})"
    )
    asked = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert asked.stdout == "set()\n"


def _has_ipv6() -> bool:
    try:
        with closing(socket.create_server(("::1", 0), family=socket.AF_INET6)):
            return True
    except OSError:
        return False
