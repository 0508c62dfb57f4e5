"""Measures what clients that wait for solutions cost the others: the api as a process, and no orchestrator.

    python -m bench.waiting

TRIM_DATABASE_URL names the Postgres server; the default is the standard port on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import psutil
from sqlalchemy import text

from bench.arguments import positive
from bench.servers import DATABASE_URL
from services.orchestrator.policy_cache import PolicyCache
from services.orchestrator.sweeping import attend
from shared.process import run
from shared.settings import Settings
from shared.store.database import Database
from shared.store.reasoning_state import PostgresStore
from stack.roles import ROLES, Roles
from stack.running import free_port
from stack.scratch import scratch_database

REQUESTS = 20
"""Number of requests of each kind that are timed, one after another."""

BATCH = 1000
PROBLEM = {"question": "What is 6 times 7?"}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m bench.waiting", description="Measure what waiting clients cost.")
    parser.add_argument("--clients", type=positive, default=300, help="clients that wait (%(default)s)")
    parser.add_argument(
        "--seconds", type=positive, default=10, help="before the measurement, and of its idle part (%(default)s)"
    )
    arguments = parser.parse_args()
    run(partial(benchmark, **vars(arguments)), role="bench-waiting")


def benchmark(settings: Settings, *, clients: int, seconds: int) -> None:
    """Measure with no client that waits and with some, and print the figures as JSON."""
    server_url = settings.database_url.get_secret_value() if settings.database_url else DATABASE_URL
    with running_api(server_url) as (address, database, process):
        print(json.dumps(asyncio.run(measure(address, database, process, clients=clients, seconds=seconds))))


@contextmanager
def running_api(server_url: str) -> Iterator[tuple[str, Database, psutil.Process]]:
    """Run an api alone on a new database; yield its address, its database and its process."""
    port = free_port("127.0.0.1", 0)
    with tempfile.TemporaryDirectory() as folder, scratch_database(server_url) as database_url:
        variables = {"TRIM_DATABASE_URL": database_url, "TRIM_API_PORT": str(port), "TRIM_LOG_LEVEL": "warning"}
        with (
            Roles(variables, Path(folder), roles={"api": ROLES["api"]}) as roles,
            closing(Database(database_url)) as database,
        ):
            yield f"http://127.0.0.1:{port}", database, psutil.Process(roles.pids()["api"])


async def measure(
    address: str, database: Database, process: psutil.Process, *, clients: int, seconds: int
) -> dict[str, Any]:
    """Measure requests while nobody and while many wait, what waiting costs, and how soon all are answered.

    Args:
        address: Address of the api.
        database: Its database.
        process: Its process.
        clients: Number of clients that wait, each for another problem.
        seconds: Seconds that all of them have to connect, and then to wait while nothing else happens.
    """
    # Timed requests have a separate client: the pool of the other looks at all its connections for each request.
    async with connect(address) as http, connect(address) as timed:
        await until_alive(timed)
        alone = await time_requests(timed)
        problem_ids = await submit(http, clients)
        waiting = [asyncio.create_task(http.get(f"/v1/problems/{each}?wait_s=55")) for each in problem_ids]
        await asyncio.sleep(seconds)
        with_others = await time_requests(timed)
        idle = await count_idle(database, process, seconds=seconds)
        await asyncio.to_thread(end_all, database)
        began = time.monotonic()
        answers = await asyncio.gather(*waiting)
        answered_s = time.monotonic() - began
    assert all(each.json()["status"] == "cancelled" for each in answers)
    return {"clients": clients, "alone": alone, "with_others": with_others, **idle, "answered_s": round(answered_s, 2)}


def connect(address: str) -> httpx2.AsyncClient:
    """Return a client with any number of connections."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx2.AsyncClient(base_url=address, timeout=120, limits=limits, trust_env=False)


async def submit(http: httpx2.AsyncClient, count: int) -> list[str]:
    """Submit problems, and return their ids."""
    problem_ids: list[str] = []
    while len(problem_ids) < count:
        made = await http.post("/v1/batches", json={"problems": [PROBLEM] * min(BATCH, count - len(problem_ids))})
        problem_ids += made.raise_for_status().json()["problem_ids"]
    return problem_ids


async def until_alive(http: httpx2.AsyncClient) -> None:
    """Wait until an api answers."""
    while True:
        try:
            await http.get("/health/live")
            return
        except httpx2.TransportError:
            await asyncio.sleep(0.1)


async def time_requests(http: httpx2.AsyncClient) -> dict[str, float]:
    """Return median and maximum of the milliseconds of requests, by kind."""

    async def times_of(send: Callable[[], Awaitable[httpx2.Response]]) -> Sequence[float]:
        times = []
        for _ in range(REQUESTS):
            began = time.monotonic()
            (await send()).raise_for_status()
            times.append(1000 * (time.monotonic() - began))
        return times

    live = await times_of(lambda: http.get("/health/live"))
    submission = await times_of(lambda: http.post("/v1/problems", json=PROBLEM))
    return {
        "live_ms": round(statistics.median(live), 1),
        "live_ms_max": round(max(live), 1),
        "submission_ms": round(statistics.median(submission), 1),
        "submission_ms_max": round(max(submission), 1),
    }


async def count_idle(database: Database, process: psutil.Process, *, seconds: int) -> dict[str, float]:
    """Count what the api and the database do while nothing but waiting goes on."""
    cpu, transactions = process.cpu_times(), _transactions(database)
    await asyncio.sleep(seconds)
    later = process.cpu_times()
    used_s = later.user + later.system - cpu.user - cpu.system
    return {
        "idle_cores": round(used_s / seconds, 2),
        "idle_transactions_per_s": round((_transactions(database) - transactions) / seconds, 1),
    }


def _transactions(database: Database) -> int:
    with database.session() as session:
        session.execute(text("SELECT pg_stat_force_next_flush()"))
    with database.session() as session:
        query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
        return int(session.execute(text(query)).scalar_one())


def end_all(database: Database) -> None:
    """Cancel all problems, as orchestrators do."""
    with database.session() as session:
        session.execute(text("UPDATE problems SET cancel_requested_at = now()"))
    store, is_full = PostgresStore(database), True
    policies = PolicyCache(store)
    while is_full:
        swept = attend(store, roles=lambda *_: None, policies=policies, now=lambda: datetime.now(UTC))
        is_full = swept.is_full


if __name__ == "__main__":
    main()
