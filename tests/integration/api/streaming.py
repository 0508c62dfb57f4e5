"""Streams of the API, served by a real server on the event loop of the test."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import httpx2
from fastapi import FastAPI
from sqlalchemy import text

from services.api.app import create_app
from services.api.server import LOOP_LIMIT_S, Server, configure
from shared.messages import GenerateSteps
from shared.observe.health import Health
from shared.store.database import Database
from tests.integration.api.calls import PATIENCE_S, SETTINGS
from tests.integration.solving import follow, hear, start, write

LISTENING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'")

Event = httpx2.ServerSentEvent


@dataclass
class Served:
    """An app that serves, and its clients."""

    app: FastAPI
    http: httpx2.AsyncClient
    database: Database
    server: Server
    task: asyncio.Task[None]

    @asynccontextmanager
    async def events(self, problem_id: object, last: str = "") -> AsyncIterator[AsyncIterator[Event]]:
        """Follow a problem from the id of an event on."""
        headers = {"Last-Event-ID": last} if last else {}
        async with self.http.stream("GET", f"/v1/problems/{problem_id}/events", headers=headers) as response:
            assert response.status_code == 200, await response.aread()
            yield aiter(httpx2.EventSource(response))

    async def read_all(self, problem_id: object, last: str = "") -> list[Event]:
        """Read all events after one until the stream stops."""
        async with self.events(problem_id, last) as events:
            return [each async for each in events]

    def followers(self) -> int:
        return len(self.app.state.waiting)

    async def stop(self) -> None:
        self.server.should_exit = True
        await self.task


@asynccontextmanager
async def serving(served: Database, database: Database) -> AsyncIterator[Served]:
    """Serve the API until the end of the block; `served` may reach the same database by another way."""
    app = create_app(SETTINGS, served)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = "http://127.0.0.1:{1}".format(*listener.getsockname())
        beat = Health(role="api", node="api-0", conditions=()).loop("event loop", limit_s=LOOP_LIMIT_S)
        server = Server(configure(app, SETTINGS), app.state.following, beat, keys=SETTINGS.api_keys)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=address, timeout=PATIENCE_S, limits=limits, trust_env=False) as http:
            made = Served(app, http, database, server, task)
            try:
                await until(lambda: server.started and is_listening(database))
                yield made
            finally:
                await made.stop()


def is_listening(database: Database) -> bool:
    with database.session() as session:
        return bool(session.scalar(LISTENING))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.01)


async def take(events: AsyncIterator[Event], count: int) -> list[Event]:
    """Read some events of a stream that goes on."""
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(events) for _ in range(count)]


def ids(events: list[Event]) -> list[str]:
    return [each.id for each in events]


STAGES = [["1.0", "1.1"], ["2.1"], ["2.2"], ["3.2", "3.3", "end"]]
"""Ids of the events of `solving`, by stage: a step that is kept, one that is escalated, what the large model wrote for
it, and a step with the answer."""


def solving(database: Database, problem_id: UUID) -> Iterator[None]:
    """Solve a queued problem, a stage each time."""
    command: GenerateSteps = start(database)[problem_id]
    write_: Callable[..., Any] = partial(hear, database)
    command = follow(write_(write(command, "Six sevens are wanted.", score=0.9)))
    yield
    command = follow(write_(write(command, "That makes 41.", score=0.25)))
    yield
    command = follow(write_(write(command, "That makes 42.")))
    yield
    write_(write(command, "Hence \\boxed{42}", score=0.75))
    yield


async def advance(stages: Iterator[None]) -> None:
    """Go on with a solution by a stage."""
    await asyncio.to_thread(next, stages)
