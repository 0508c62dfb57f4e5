"""Clients that wait for a problem's end: what wakes them, and what they cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import event, text

from chaos.proxy import Proxy
from services.api import waiting
from services.api.app import create_app
from services.api.native import problems
from services.orchestrator.policy_cache import PolicyCache
from services.orchestrator.sweeping import attend
from shared.store.database import Database
from shared.store.reasoning_state import PostgresStore
from tests.integration.api.calls import PATIENCE_S, QUESTION, SETTINGS, change

pytestmark = pytest.mark.servers

NEVER_S = 3600.0
LISTENING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'")


@dataclass
class Clients:
    """Clients of an app that runs as in a server."""

    app: FastAPI
    http: httpx2.AsyncClient
    database: Database
    waiting: int = 0
    """Number of requests that have found their problem open, and wait."""

    async def submit(self) -> str:
        made: str = (await self.http.post("/v1/problems", json=QUESTION)).json()["id"]
        return made

    async def wait_for(self, *problem_ids: str) -> list[asyncio.Task[httpx2.Response]]:
        """Let one client wait for each of the problems."""
        expected = self.waiting + len(problem_ids)
        made = [asyncio.create_task(self.http.get(f"/v1/problems/{each}?wait_s=60")) for each in problem_ids]
        await until(lambda: self.waiting == expected)
        return made

    def is_listening(self) -> bool:
        with self.database.session() as session:
            return bool(session.scalar(LISTENING))

    def end_with(self, problem_id: str, *, notify: bool) -> None:
        """End a problem as an orchestrator does, of this version or of one that notifies nobody."""
        if not notify:
            return change(self.database, problem_id, status="cancelled", finished_at=datetime.now(UTC))
        store = PostgresStore(self.database)
        attend(store, roles=lambda *_: None, policies=PolicyCache(store), now=lambda: datetime.now(UTC))
        return None


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.01)


async def statuses_of(tasks: list[asyncio.Task[httpx2.Response]]) -> set[str]:
    """Return the statuses that clients read when they are woken, which is long before their time is up."""
    async with asyncio.timeout(PATIENCE_S):
        return {each.json()["status"] for each in await asyncio.gather(*tasks)}


@pytest.fixture
def run(database: Database, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a test's body with the clients of an app, on a database that may be reached by way of a proxy."""

    def run_it(body: Callable[[Clients], Coroutine[Any, Any, None]], *, by_way_of: Database | None = None) -> None:
        async def run_all() -> None:
            async with serving(by_way_of or database, database) as clients:
                monkeypatch.setattr(problems, "wait_for", counting(clients))
                await body(clients)

        asyncio.run(run_all())

    return run_it


@asynccontextmanager
async def serving(served: Database, database: Database) -> AsyncIterator[Clients]:
    app = create_app(SETTINGS, served)
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://api", timeout=PATIENCE_S) as http,
    ):
        clients = Clients(app, http, database)
        await until(clients.is_listening)
        yield clients


def counting(clients: Clients) -> Callable[..., Coroutine[Any, Any, None]]:
    async def wait_for(*arguments: Any, **named: Any) -> None:
        clients.waiting += 1
        await waiting.wait_for(*arguments, **named)

    return wait_for


def test_a_notification_alone_wakes_the_clients_of_its_problem(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOOK_EVERY_S", NEVER_S)

    async def body(clients: Clients) -> None:
        ended, still_open = [await clients.submit() for _ in range(2)]
        woken = await clients.wait_for(ended, ended)
        [left] = await clients.wait_for(still_open)
        await clients.http.post(f"/v1/problems/{ended}/cancel")
        await asyncio.to_thread(clients.end_with, ended, notify=True)
        assert await statuses_of(woken) == {"cancelled"}
        assert not left.done()
        assert len(clients.app.state.waiting) == 1
        clients.app.state.waiting.stop()
        assert await statuses_of([left]) == {"queued"}, "a process that stops answers at once"
        assert len(clients.app.state.waiting) == 0

    run(body)


def test_an_end_that_nobody_notified_is_found_at_the_next_look(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOOK_EVERY_S", 0.05)

    async def body(clients: Clients) -> None:
        ended = await clients.submit()
        woken = await clients.wait_for(ended)
        await asyncio.to_thread(clients.end_with, ended, notify=False)
        assert await statuses_of(woken) == {"cancelled"}

    run(body)


def test_an_end_while_the_connection_was_broken_is_found_once_it_is_open_again(
    run: Callable[..., None], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOOK_EVERY_S", NEVER_S)
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with Proxy(url) as proxy, closing(Database(proxy.url)) as by_way_of:

        async def body(clients: Clients) -> None:
            ended = await clients.submit()
            woken = await clients.wait_for(ended)
            proxy.cut()
            await until(lambda: not clients.is_listening())
            await asyncio.to_thread(clients.end_with, ended, notify=False)
            proxy.mend()
            assert await statuses_of(woken) == {"cancelled"}

        run(body, by_way_of=by_way_of)


def test_hundreds_of_waiting_clients_send_no_statement_and_delay_no_request(
    run: Callable[..., None], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOOK_EVERY_S", 0.05)
    looks = 0
    find_open = waiting.ProblemListener.find_open

    async def counted(listener: waiting.ProblemListener, problem_ids: list[UUID]) -> Any:
        nonlocal looks
        looks += 1
        return await find_open(listener, problem_ids)

    monkeypatch.setattr(waiting.ProblemListener, "find_open", counted)

    async def body(clients: Clients) -> None:
        problem_ids = [await clients.submit() for _ in range(3)]
        tasks = await clients.wait_for(*problem_ids * 100)
        statements: list[str] = []
        event.listen(database.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
        seen = looks
        await until(lambda: looks > seen + 3)
        assert statements == [], "one statement for all of them, on the connection that listens"
        assert (await clients.http.get("/health/live")).status_code == 200
        await clients.submit()
        assert not any(each.done() for each in tasks)
        sent = len(statements)
        clients.app.state.waiting.stop()
        assert await statuses_of(tasks) == {"queued"}
        assert len(statements) == sent, "a process that stops has no time for hundreds of looks"

    run(body)
