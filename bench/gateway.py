"""Measures what a request to `/v1/chat/completions` costs beside its model: all roles, and an engine without delay.

    python -m bench.gateway

Each request is a problem of one step by the small model alone. TRIM_DATABASE_URL and TRIM_BROKER_URL name the servers;
the default is the standard ports on this machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from pydantic import SecretStr

from bench.arguments import positive
from bench.counters import cpu_seconds
from bench.servers import servers
from shared.process import run
from shared.settings import Settings
from stack.client import Api
from stack.interrupts import reporting_interrupts
from stack.roles import ROLES, Roles
from stack.running import free_port
from stack.scratch import scratch_database, scratch_prefix, scratch_queues

WARM_UP = 100
"""Number of requests before the measurement."""

PATH = "/v1/chat/completions"
SCRIPT = {"default": [{"small": "The answer is \\boxed{7}."}]}

_PHASES = """
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM started_at - created_at)) * 1000,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - started_at)) * 1000
    FROM problems WHERE question LIKE %s || '%%'
"""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description="Measure what a request costs.")
    parser.add_argument("--sequential", type=positive, default=300, help="requests one at a time (%(default)s)")
    parser.add_argument("--requests", type=positive, default=3000, help="requests of all clients (%(default)s)")
    parser.add_argument("--clients", type=positive, default=32, help="clients at the same time (%(default)s)")
    parser.add_argument("--repeats", type=positive, default=3, help="turns of both (%(default)s)")
    arguments = parser.parse_args()
    with reporting_interrupts("bench-gateway"):
        run(partial(benchmark, **vars(arguments)), role="bench-gateway")


def benchmark(settings: Settings, *, sequential: int, requests: int, clients: int, repeats: int) -> None:
    """Measure in turns, and print the figures as JSON."""
    with servers(settings) as (server_url, broker_url), running_gateway(server_url, broker_url) as gateway:
        gateway.send("warm-up", WARM_UP, clients=clients)
        alone = [gateway.send(f"alone-{turn}", sequential, clients=1) for turn in range(repeats)]
        crowded = [gateway.send(f"crowd-{turn}", requests, clients=clients) for turn in range(repeats)]
        waited_ms, worked_ms = gateway.phases("alone-")
    milliseconds = [statistics.median(each.times_ms) for each in alone]
    rates = [len(each.times_ms) / each.seconds for each in crowded]
    latencies = [statistics.median(each.times_ms) for each in crowded]
    result = {
        "ms_per_request": round(statistics.median(milliseconds), 2),
        "ms_per_request_range": [round(min(milliseconds), 2), round(max(milliseconds), 2)],
        "ms_until_started": round(waited_ms, 2),
        "ms_until_solved": round(worked_ms, 2),
        "clients": clients,
        "requests_per_s": round(statistics.median(rates)),
        "requests_per_s_range": [round(min(rates)), round(max(rates))],
        "ms_per_request_crowded": round(statistics.median(latencies), 1),
        "cpu_ms_per_request": _cpu_ms(crowded),
    }
    print(json.dumps(result))


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Requests that were answered."""

    seconds: float
    times_ms: Sequence[float]
    cpu_s: dict[str, float]


class Gateway:
    """The service, and clients that keep their connections."""

    def __init__(self, port: int, roles: Roles, connection: psycopg.Connection[Any], broker_url: str) -> None:
        self._port = port
        self._roles = roles
        self._connection = connection
        self._broker_url = broker_url

    def send(self, name: str, count: int, *, clients: int) -> Timing:
        """Send requests, as many at the same time as there are clients; every question is another one."""
        shares = [range(start, count, clients) for start in range(clients)]
        before, began = self._cpu_s(), time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            times = [each for share in pool.map(partial(self._send_all, name), shares) for each in share]
        seconds, after = time.monotonic() - began, self._cpu_s()
        return Timing(seconds=seconds, times_ms=times, cpu_s={role: after[role] - before[role] for role in after})

    def phases(self, name: str) -> tuple[float, float]:
        """Return the median of the milliseconds from submission to start, and from there to the end."""
        row = self._connection.execute(_PHASES, [name]).fetchone()
        assert row is not None
        return float(row[0]), float(row[1])

    def _send_all(self, name: str, share: range) -> list[float]:
        connection, times = HTTPConnection("127.0.0.1", self._port, timeout=60), list[float]()
        for number in share:
            question = f"{name} {number} {uuid4()}"
            body = json.dumps({"model": "trim-small", "messages": [{"role": "user", "content": question}]})
            began = time.monotonic()
            connection.request("POST", PATH, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
            times.append(1000 * (time.monotonic() - began))
            assert response.status == 200, text  # noqa: PLR2004 - the status of a completion
        connection.close()
        return times

    def _cpu_s(self) -> dict[str, float]:
        backend = self._connection.info.backend_pid
        return cpu_seconds(self._roles.pids(), backend=backend, broker_url=self._broker_url)


@contextmanager
def running_gateway(server_url: str, broker_url: str) -> Iterator[Gateway]:
    """Run the service for the duration of the block.

    Args:
        server_url: Database of a server on which others can be created.
        broker_url: URL of RabbitMQ.
    """
    port = free_port("127.0.0.1", 0)
    with tempfile.TemporaryDirectory() as folder, scratch_database(server_url) as database_url:
        settings = Settings(
            database_url=SecretStr(database_url), broker_url=SecretStr(broker_url), queue_prefix=scratch_prefix()
        )
        path = Path(folder) / "script.json"
        path.write_text(json.dumps(SCRIPT), encoding="utf-8")
        variables = {
            "TRIM_DATABASE_URL": database_url,
            "TRIM_BROKER_URL": broker_url,
            "TRIM_QUEUE_PREFIX": settings.queue_prefix,
            "TRIM_API_PORT": str(port),
            "TRIM_ENGINE": "scripted",
            "TRIM_SCRIPT": str(path),
            "TRIM_LOG_LEVEL": "warning",
        }
        with (
            scratch_queues(settings),
            Roles(variables, Path(folder), roles=ROLES) as roles,
            psycopg.connect(database_url, autocommit=True) as connection,
            Api(f"http://127.0.0.1:{port}") as api,
        ):
            api.wait_until_ready(roles.check)
            yield Gateway(port, roles, connection, broker_url)


def _cpu_ms(timings: Sequence[Timing]) -> dict[str, float]:
    requests = sum(len(each.times_ms) for each in timings)
    return {role: round(sum(each.cpu_s[role] for each in timings) * 1000 / requests, 2) for role in timings[0].cpu_s}


if __name__ == "__main__":
    main()
