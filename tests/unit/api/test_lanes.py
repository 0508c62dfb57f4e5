"""Requests that wait for the database delay no request of another kind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx2
from sqlalchemy.orm import Session

from services.api.app import create_app
from services.api.lanes import EXPORTS, KEY_RECORDS, KEYS, READINESS, READS, REQUEST_THREADS
from services.api.server import POOL_SIZE
from shared.settings import Settings
from shared.store.database import Database, DatabaseUnavailable

PATIENCE_S = 30.0
WAITING, SUBMITTING = 100, 20


class HeldDatabase(Database):
    """A database that keeps every transaction until it is released, and then is away."""

    def __init__(self) -> None:
        super().__init__("postgresql://postgres@127.0.0.1:9/trim")
        self.released = threading.Event()
        self.begun: list[None] = []
        """One item for each transaction that has begun."""

    @contextmanager
    def session(self) -> Iterator[Session]:
        self.begun.append(None)
        self.released.wait(PATIENCE_S)
        raise DatabaseUnavailable
        yield


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.01)


def test_while_every_transaction_hangs_each_kind_of_request_begins_its_own_and_liveness_needs_none() -> None:
    database = HeldDatabase()
    app = create_app(Settings(), database)

    async def send_all() -> None:
        transport = httpx2.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://api") as http,
        ):

            async def begin(count: int, expected: int, method: str, path: str, **body: Any) -> list[asyncio.Task[Any]]:
                before = len(database.begun)
                tasks = [asyncio.create_task(http.request(method, path, **body)) for _ in range(count)]
                await until(lambda: len(database.begun) == before + expected)
                return tasks

            tasks = await begin(WAITING, READS.threads, "GET", f"/v1/problems/{uuid4()}?wait_s=20")
            tasks += await begin(
                SUBMITTING, REQUEST_THREADS, "POST", "/v1/problems", json={"question": "What is 6 times 7?"}
            )
            tasks += await begin(1, READINESS.threads, "GET", "/health/ready")
            assert (await http.get("/health/live")).status_code == 200
            assert (await http.get("/no-such-path")).status_code == 404
            assert not any(each.done() for each in tasks)
            database.released.set()
            assert {each.status_code for each in await asyncio.gather(*tasks)} == {503}

    asyncio.run(send_all())


def test_no_thread_of_the_process_waits_for_a_connection_of_the_pool() -> None:
    lanes = (READS, EXPORTS, READINESS, KEYS, KEY_RECORDS)
    watcher = 1
    assert REQUEST_THREADS + sum(each.threads for each in lanes) + watcher <= 2 * POOL_SIZE
