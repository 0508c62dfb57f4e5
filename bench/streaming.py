"""Measures how soon a finished step reaches clients that stream, and what hundreds of streams cost other requests.

    python -m bench.streaming

Every role runs as a process with a scripted engine whose steps take as long as on a GPU. TRIM_DATABASE_URL and
TRIM_BROKER_URL name the servers; the default is the standard ports on this machine. The benchmark deletes what it
creates.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

import httpx2
import psutil
from rich.console import Console
from rich.table import Table

from bench.arguments import positive
from bench.report_times import ReportTimes
from bench.scripted import SCRIPT, STEP_TOKENS, TOKEN_MS
from bench.servers import servers
from bench.service import MEASURED, POLICY, Service, running_service
from bench.waiting import connect, count_idle, end_all, running_api, submit, time_requests, until_alive
from shared.process import run
from shared.settings import Settings
from shared.store.database import Database
from stack.interrupts import reporting_interrupts
from stack.roles import ROLES
from stack.running import free_port

TIMEOUT_S = 120.0
"""Maximum seconds for the streams of one part to end."""

CHOICE = {"name": POLICY.name, "parameters": POLICY.model_dump()}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m bench.streaming", description="Measure streams of problems.")
    parser.add_argument("--sequential", type=positive, default=5, help="problems one at a time (%(default)s)")
    parser.add_argument("--in-flight", type=positive, default=64, help="problems at the same time (%(default)s)")
    parser.add_argument("--rounds", type=positive, default=3, help="rounds of as many (%(default)s)")
    parser.add_argument("--streams", type=positive, default=300, help="streams beside other requests (%(default)s)")
    parser.add_argument("--seconds", type=positive, default=10, help="seconds that they are idle (%(default)s)")
    arguments = parser.parse_args()
    with reporting_interrupts("bench-streaming"):
        run(partial(benchmark, **vars(arguments)), role="bench-streaming")


def benchmark(settings: Settings, *, sequential: int, in_flight: int, rounds: int, streams: int, seconds: int) -> None:
    """Measure both, and print a table and JSON."""
    with servers(settings) as (server_url, broker_url):
        latencies = measure_latencies(server_url, broker_url, sequential=sequential, in_flight=in_flight, rounds=rounds)
        with running_api(server_url) as (address, database, process):
            others = asyncio.run(measure_others(address, database, process, streams=streams, seconds=seconds))
    result = {"in_flight": in_flight, **latencies, "streams": streams, **others}
    _show(Console(width=100), result)
    print(json.dumps(result))


@dataclass(slots=True)
class Followed:
    """A stream as its client received it: the parts, each with its moment on the monotonic clock."""

    problem_id: UUID
    opened_at: float = 0.0
    parts: list[tuple[float, bytes]] = field(default_factory=list)

    def step_times(self) -> Mapping[int, float]:
        """Return the moment at which each step was complete, by its index."""
        times: dict[int, float] = {}
        rest = b""
        for at, part in self.parts:
            *events, rest = (rest + part).split(b"\n\n")
            for each in events:
                if each.startswith(b"event: step"):
                    times[json.loads(each.partition(b"data: ")[2].partition(b"\n")[0])["step"]] = at
        return times


def measure_latencies(
    server_url: str, broker_url: str, *, sequential: int, in_flight: int, rounds: int
) -> dict[str, Any]:
    """Measure the milliseconds from a worker's report to the arrival of the step, alone and with others."""
    port = free_port("127.0.0.1", 0)
    with (
        running_service(
            server_url,
            broker_url,
            Service,
            window=in_flight,
            script=SCRIPT,
            roles={**MEASURED, "api": ROLES["api"]},
            environment={"TRIM_API_PORT": str(port), "TRIM_CONCURRENCY": str(in_flight)},
        ) as service,
    ):
        address = f"http://127.0.0.1:{port}"
        asyncio.run(_solve(address, 1, in_flight))  # Every role has started, and is warm.
        with ReportTimes(service.settings) as reports:
            alone = asyncio.run(_solve(address, sequential, 1))
            crowded = asyncio.run(_solve(address, rounds, in_flight))
            reported = reports.read()
    return {"alone": _summarise(alone, reported), "crowded": _summarise(crowded, reported)}


async def _solve(address: str, rounds: int, at_once: int) -> Sequence[Followed]:
    """Solve problems in rounds, and follow each of them. A round begins them over the time that a step takes."""
    found: list[Followed] = []
    async with connect(address) as http, asyncio.timeout(TIMEOUT_S):
        await until_alive(http)
        for _ in range(rounds):
            waits = [STEP_TOKENS * TOKEN_MS / 1000 * number / at_once for number in range(at_once)]
            found += await asyncio.gather(*(_submit_and_follow(http, wait_s=each) for each in waits))
    return found


async def _submit_and_follow(http: httpx2.AsyncClient, *, wait_s: float) -> Followed:
    await asyncio.sleep(wait_s)
    made = await http.post("/v1/problems", json={"question": "What is the problem?", "policy": CHOICE})
    return await _follow(http.base_url, made.raise_for_status().json()["id"])


async def _follow(address: httpx2.URL, problem_id: str) -> Followed:
    """Read a stream until it ends.

    On a plain connection, because a client library takes longer for an event than the service. HTTP/1.0 has no chunks.
    """
    followed = Followed(UUID(problem_id))
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(f"GET /v1/problems/{problem_id}/events HTTP/1.0\r\nHost: api\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.splitlines()[0], head
        followed.opened_at = time.monotonic()
        while part := await reader.read(65_536):
            followed.parts.append((time.monotonic(), part))
    finally:
        writer.close()
    assert b"event: end\n" in b"".join(part for _, part in followed.parts)
    return followed


def _summarise(followed: Sequence[Followed], reported: Mapping[tuple[UUID, int], float]) -> dict[str, float]:
    """Summarise the latencies of the steps that were reported after their stream had been opened."""
    latencies = [
        1000 * (at - began)
        for each in followed
        for step, at in each.step_times().items()
        if (began := reported.get((each.problem_id, step))) is not None and began > each.opened_at
    ]
    # With one step there is no distribution.
    ordered = statistics.quantiles(latencies, n=20, method="inclusive") if len(latencies) > 1 else [*latencies] * 19
    return {"steps": len(latencies), "median_ms": round(ordered[9], 1), "p95_ms": round(ordered[18], 1)}


async def measure_others(
    address: str, database: Database, process: psutil.Process, *, streams: int, seconds: int
) -> dict[str, Any]:
    """Measure requests beside streams: while all are idle, and while all get the end of their problems.

    Args:
        address: Address of the api.
        database: Its database.
        process: Its process.
        streams: Number of streams, each of another problem.
        seconds: Seconds that all of them have to connect, and then to wait while nothing else happens.
    """
    async with connect(address) as http, connect(address) as timed:
        await until_alive(timed)
        without = await time_requests(timed)
        problem_ids = await submit(http, streams)
        tasks = [asyncio.create_task(_follow(http.base_url, each)) for each in problem_ids]
        await asyncio.sleep(seconds)
        beside = await time_requests(timed)
        idle = await count_idle(database, process, seconds=seconds)
        began = time.monotonic()
        _, woken = await asyncio.gather(asyncio.to_thread(end_all, database), time_requests(timed))
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.gather(*tasks)
        ended_s = time.monotonic() - began
    times = {"without_streams": without, "beside_streams": beside, "beside_ends": woken}
    return {**times, **idle, "ended_s": round(ended_s, 2)}


def _show(console: Console, result: Mapping[str, Any]) -> None:
    table = Table(title="From a worker's report to the step at the client")
    for name in ("", "steps", "median, ms", "95th percentile, ms"):
        table.add_column(name, justify="right" if name else "left")
    for name, key in (("one problem", "alone"), (f"{result['in_flight']} problems", "crowded")):
        table.add_row(name, *(str(result[key][each]) for each in ("steps", "median_ms", "p95_ms")))
    console.print(table)
    table = Table(title=f"Other requests beside {result['streams']} streams, median (maximum), ms")
    for name in ("", "/health/live", "submission"):
        table.add_column(name, justify="right" if name else "left")
    rows = (("no streams", "without_streams"), ("idle streams", "beside_streams"), ("all of them end", "beside_ends"))
    for name, key in rows:
        times = result[key]
        table.add_row(name, *(f"{times[f'{each}_ms']} ({times[f'{each}_ms_max']})" for each in ("live", "submission")))
    console.print(table)


if __name__ == "__main__":
    main()
