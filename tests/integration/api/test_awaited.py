"""Requests that wait for their problem: a retry gets the same one, and what a client leaves is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import event, select, text

from services.api import leaving
from services.api.app import create_app
from shared.store.awaited import RETRIED_FOR
from shared.store.database import Database
from shared.store.tables import IdempotencyKey, Problem
from tests.integration.api.calls import PATIENCE_S, SETTINGS, change

pytestmark = pytest.mark.servers

NEVER_S = 3600.0


@dataclass
class Chats:
    """Clients of an app that runs as in a server; they may leave, which those of a test client cannot."""

    app: FastAPI
    database: Database

    def ask(self, question: str, *, headers: dict[str, str] | None = None, **fields: Any) -> Client:
        body = {"model": "trim", "messages": [{"role": "user", "content": question}], **fields}
        return Client(self.app, httpx2.Request("POST", "http://api/v1/chat/completions", json=body, headers=headers))

    def problems(self, question: str) -> list[Problem]:
        with self.database.session() as session:
            query = select(Problem).where(Problem.question == question).order_by(Problem.id)
            return list(session.scalars(query))

    async def until_submitted(self, question: str, count: int = 1) -> list[Problem]:
        await until(lambda: len(self.problems(question)) == count)
        return self.problems(question)

    async def until_waited_for(self, count: int) -> None:
        """Wait until a number of requests is attached to problems."""
        attached = self.app.state.solving.leaving._attached
        await until(lambda: sum(each.count for each in attached.values()) == count)

    def end(self, problem: Problem, status: str = "succeeded") -> None:
        reason = {"stop_reason": "final_answer"} if status == "succeeded" else {}
        change(self.database, str(problem.id), status=status, finished_at=datetime.now(UTC), **reason)
        self.app.state.waiting.wake(problem.id)


class Client:
    """One request, whose client may leave."""

    def __init__(self, app: FastAPI, request: httpx2.Request) -> None:
        self._left = asyncio.Event()
        self._sent = False
        self._request = request
        self.status = 0
        self.body = b""
        path = request.url.path
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
            "path": path, "raw_path": path.encode(), "root_path": "", "scheme": "http", "query_string": b"",
            "headers": [(name.lower(), value) for name, value in request.headers.raw], "client": None, "server": None,
        }  # fmt: skip
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    def leave(self) -> None:
        self._left.set()

    async def answer(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            await self.task
        return dict(httpx2.Response(self.status, content=self.body).json())

    async def _receive(self) -> dict[str, Any]:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._request.content, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        self.body += message.get("body", b"")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(database: Database) -> AsyncIterator[Chats]:
    app = create_app(SETTINGS, database)
    async with app.router.lifespan_context(app):
        yield Chats(app, database)


@pytest.fixture
def run(database: Database, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a test's body with clients of an app, and a grace that is short or endless."""

    def run_it(body: Callable[[Chats], Coroutine[Any, Any, None]], *, grace_s: float) -> None:
        monkeypatch.setattr(leaving, "GRACE_S", grace_s)

        async def run_all() -> None:
            async with serving(database) as chats:
                await body(chats)
                await until(lambda: len(chats.app.state.solving.leaving) == 0 or grace_s == NEVER_S)
            assert len(chats.app.state.solving.leaving) == 0, "nothing outlives the app"

        asyncio.run(run_all())

    return run_it


RETRY = {"X-Stainless-Retry-Count": "1"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_problem_whose_client_leaves_is_cancelled(run: Callable[..., None], stream: bool) -> None:
    question = f"Left {stream} {uuid4()}?"

    async def body(chats: Chats) -> None:
        client = chats.ask(question, stream=stream)
        [problem] = await chats.until_submitted(question)
        await chats.until_waited_for(1)
        client.leave()
        await client.task
        assert client.status == (200 if stream else 499)
        await until(lambda: chats.problems(question)[0].cancel_requested_at is not None)
        with chats.database.session() as session:
            kept = select(IdempotencyKey).where(IdempotencyKey.problem_id == problem.id)
            assert session.scalar(kept) is None, "no retry may attach to it"
        retried = chats.ask(question, headers=RETRY, stream=stream)
        [_, second] = await chats.until_submitted(question, 2)
        await chats.until_waited_for(1)
        chats.end(second)
        await retried.task

    run(body, grace_s=0.01)


@pytest.mark.parametrize("stream", [False, True])
def test_a_retry_gets_the_problem_of_the_try_before_it(run: Callable[..., None], stream: bool) -> None:
    question = f"Retried {stream} {uuid4()}?"

    async def body(chats: Chats) -> None:
        first = chats.ask(question, stream=stream)
        [problem] = await chats.until_submitted(question)
        await chats.until_waited_for(1)
        first.leave()
        await first.task
        retried = chats.ask(question, headers=RETRY, stream=stream)
        await chats.until_waited_for(1)
        chats.end(problem)
        await retried.task
        assert (retried.status, str(problem.id) in retried.body.decode()) == (200, True)
        late = chats.ask(question, headers=RETRY, stream=stream)
        await late.task
        assert (late.status, str(problem.id) in late.body.decode()) == (200, True), "the response may have been lost"
        assert len(chats.problems(question)) == 1

    run(body, grace_s=NEVER_S)


def test_a_retry_at_another_process_keeps_the_problem(run: Callable[..., None], database: Database) -> None:
    question = f"Elsewhere {uuid4()}?"

    async def body(chats: Chats) -> None:
        first = chats.ask(question)
        [problem] = await chats.until_submitted(question)
        await chats.until_waited_for(1)
        async with serving(database) as others:
            retried = others.ask(question, headers=RETRY)
            await others.until_waited_for(1)
            first.leave()
            await first.task
            await until(lambda: len(chats.app.state.solving.leaving) == 0)
            assert chats.problems(question)[0].cancel_requested_at is None
            others.end(problem)
            assert (await retried.answer())["trim"]["problem_id"] == str(problem.id)

    run(body, grace_s=0.01)


def test_one_client_that_leaves_does_not_end_the_problem_of_another(run: Callable[..., None]) -> None:
    question, key = f"Shared {uuid4()}?", {"Idempotency-Key": uuid4().hex}

    async def body(chats: Chats) -> None:
        first, second = (chats.ask(question, headers=key) for _ in range(2))
        [problem] = await chats.until_submitted(question)
        await chats.until_waited_for(2)
        for leaving_one, left in ((first, 1), (second, 0)):
            leaving_one.leave()
            await leaving_one.task
            is_cancelled = chats.problems(question)[0].cancel_requested_at is not None
            assert not is_cancelled or not left
        await until(lambda: chats.problems(question)[0].cancel_requested_at is not None)
        again = chats.ask(question, headers=key)
        await chats.until_submitted(question, 2)
        await chats.until_waited_for(1)
        chats.end(chats.problems(question)[1])
        assert (await again.answer())["trim"]["problem_id"] != str(problem.id)

    run(body, grace_s=0.01)


def test_equal_requests_are_two_problems_and_one_key_is_one(run: Callable[..., None]) -> None:
    question = f"Twice {uuid4()}?"

    async def body(chats: Chats) -> None:
        clients = [chats.ask(question) for _ in range(2)]
        await chats.until_submitted(question, 2)
        await chats.until_waited_for(2)
        for problem in chats.problems(question):
            chats.end(problem)
        answers = [await each.answer() for each in clients]
        assert len({each["id"] for each in answers}) == 2
        key = {"Idempotency-Key": uuid4().hex}
        keyed = [chats.ask(f"{question}!", headers=key) for _ in range(2)]
        [problem] = await chats.until_submitted(f"{question}!")
        await chats.until_waited_for(2)
        chats.end(problem)
        assert {(await each.answer())["trim"]["problem_id"] for each in keyed} == {str(problem.id)}
        other = chats.ask("Another?", headers=key)
        assert (await other.answer())["error"]["code"] == "idempotency_conflict"

    run(body, grace_s=NEVER_S)


def test_requests_are_submitted_together_and_one_that_cannot_be_holds_up_no_other(run: Callable[..., None]) -> None:
    question = f"Together {uuid4()}?"

    async def body(chats: Chats) -> None:
        statements: list[str] = []
        event.listen(chats.database.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
        good = [chats.ask(f"{question}{number}") for number in range(8)]
        bad = chats.ask(question, model="trim-sequence")
        assert (await bad.answer())["error"]["code"] == "model_not_found"
        await chats.until_waited_for(8)
        for number in range(8):
            [problem] = chats.problems(f"{question}{number}")
            chats.end(problem)
        assert {each["trim"]["status"] for each in [await each.answer() for each in good]} == {"succeeded"}
        assert chats.problems(question) == []
        statements.clear()
        more = [chats.ask(f"{question}!") for _ in range(8)]
        await chats.until_waited_for(8)
        assert len([each for each in statements if each.startswith("INSERT INTO problems")]) < 8
        for problem in chats.problems(f"{question}!"):
            chats.end(problem)
        assert len({(await each.answer())["id"] for each in more}) == 8

    run(body, grace_s=NEVER_S)


@pytest.mark.parametrize("how", ["failed", "cancelled", "old"])
def test_a_retry_does_not_get_a_problem_without_a_solution_or_an_old_one(run: Callable[..., None], how: str) -> None:
    question = f"Over {how} {uuid4()}?"

    async def body(chats: Chats) -> None:
        first = chats.ask(question)
        [problem] = await chats.until_submitted(question)
        await chats.until_waited_for(1)
        status = "succeeded" if how == "old" else how
        if status == "failed":
            change(chats.database, str(problem.id), failure_code="no_output", failure_detail="x")
        chats.end(problem, status)
        await first.task
        if how == "old":
            move_back(chats.database, problem)
        retried = chats.ask(question, headers=RETRY)
        [_, second] = await chats.until_submitted(question, 2)
        await chats.until_waited_for(1)
        chats.end(second)
        await retried.task

    run(body, grace_s=NEVER_S)


def move_back(database: Database, problem: Problem) -> None:
    """Let a try be older than retries are."""
    late = (problem.id.int >> 80) - int(RETRIED_FOR.total_seconds() * 1000) - 1000
    moved = f"{late:012x}"
    statement = "UPDATE idempotency_keys SET key = overlay(key placing :id from 70 for 13) WHERE problem_id = :problem"
    with database.session() as session:
        session.execute(text(statement), {"id": f"{moved[:8]}-{moved[8:]}", "problem": problem.id})


def test_a_process_that_stops_asks_its_clients_to_retry_and_cancels_what_was_left(
    run: Callable[..., None], database: Database
) -> None:
    question, left = f"Stopping {uuid4()}?", f"Left before {uuid4()}?"

    async def body(chats: Chats) -> None:
        gone = chats.ask(left)
        await chats.until_submitted(left)
        await chats.until_waited_for(1)
        gone.leave()
        await gone.task
        plain, streamed = chats.ask(question), chats.ask(f"{question}!", stream=True)
        await chats.until_submitted(question)
        await chats.until_submitted(f"{question}!")
        await chats.until_waited_for(2)
        chats.app.state.following.stop()
        assert (await plain.answer())["error"]["code"] == "stopping"
        await streamed.task
        assert b'"code": "stopping"' in streamed.body
        assert b"[DONE]" not in streamed.body

    run(body, grace_s=NEVER_S)
    with database.session() as session:
        cancelled = select(Problem.question).where(Problem.cancel_requested_at.is_not(None))
        found = set(session.scalars(cancelled)) & {question, f"{question}!", left}
    assert found == {left, f"{question}!"}, "the plain request comes back for its problem"
