"""Streams of what happens to a problem: in which order, after which id, and what ends them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, closing
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, text
from starlette.testclient import TestClient

from chaos.proxy import Proxy
from services.api import following, waiting
from shared.observe.metrics import HTTP_REQUEST_SECONDS, STREAMS_OPEN
from shared.store import reasoning_state
from shared.store.database import Database
from tests.integration.api.calls import is_refusal, wrong_fields
from tests.integration.api.streaming import STAGES, Served, advance, ids, serving, solving, take, until
from tests.integration.solving import execute, hear, solve, start, submit, write

pytestmark = pytest.mark.servers

NEVER_S = 3600.0
ALL = [each for stage in STAGES for each in stage]
ROUTE = "/v1/problems/{problem_id}/events"

Body = Callable[[Served], Coroutine[Any, Any, None]]


@pytest.fixture
def run(database: Database) -> Callable[..., None]:
    """Run a test's body with a server, on a database that may be reached by way of a proxy."""

    def run_it(body: Body, *, by_way_of: Database | None = None) -> None:
        async def run_all() -> None:
            async with serving(by_way_of or database, database) as served:
                await body(served)
                await until(lambda: served.followers() == 0)
                assert len(served.app.state.following.reads) == 0
                assert STREAMS_OPEN._value.get() == 0

        asyncio.run(run_all())

    return run_it


def test_decisions_and_steps_arrive_as_they_are_taken_and_then_the_end(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    monkeypatch.setattr(waiting, "LOOK_EVERY_S", NEVER_S)

    async def body(served: Served) -> None:
        problem_id = submit(database)
        stages = solving(database, problem_id)
        async with served.events(problem_id) as events:
            await until(lambda: served.followers() == 1)
            seen = []
            for expected in STAGES:
                await advance(stages)
                seen += await take(events, len(expected))
                assert ids(seen)[-len(expected) :] == expected
            assert [each async for each in events] == [], "the stream ends after the end"
        path = f"/v1/problems/{problem_id}"
        for kind, name in (("decision", "decisions"), ("step", "steps")):
            listed = (await served.http.get(f"{path}/{name}")).json()["items"]
            sent = [json.loads(each.data) for each in seen if each.event == kind]
            # The large model's step was scored with the draft after it, when it had been sent.
            assert [_without_score(each) for each in sent] == [_without_score(each) for each in listed]
        assert json.loads(seen[-1].data) == (await served.http.get(path)).json()
        assert [each.event for each in seen].count("end") == 1

    run(body)


def _without_score(item: dict[str, Any]) -> dict[str, Any]:
    return item | {"score": None}


def test_a_stream_goes_on_after_any_event(run: Callable[..., None], database: Database) -> None:
    async def body(served: Served) -> None:
        problem_id = submit(database)
        await asyncio.to_thread(solve, database, problem_id)
        everything = await served.read_all(problem_id)
        assert ids(everything) == ALL
        for place, last in enumerate(ALL[:-1], start=1):
            assert await served.read_all(problem_id, last) == everything[place:]
        path = f"/v1/problems/{problem_id}/events"
        for choice in ({"headers": {"Last-Event-ID": "end"}}, {"params": {"after": "end"}}):
            response = await served.http.get(path, **choice)
            assert (response.status_code, response.content) == (204, b""), "it keeps an EventSource from coming again"
        # An EventSource connects again at the same address, with the header.
        response = await served.http.get(path, params={"after": "1.1"}, headers={"Last-Event-ID": "3.2"})
        assert [line for line in response.text.splitlines() if line.startswith("id: ")] == ["id: 3.3", "id: end"]
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-accel-buffering"] == "no"

    run(body)


@pytest.mark.parametrize("last", ["x", "1", "1.", "-1.0", "1.0.0", "1.0 ", "END", "٣.٣", f"{10**9}.0"])
def test_a_malformed_place_is_refused(api: TestClient, database: Database, last: str) -> None:
    path = f"/v1/problems/{submit(database)}/events"
    assert wrong_fields(api.get(path, params={"after": last})) == "query.after"
    if last.isascii() and last.strip() == last:
        assert wrong_fields(api.get(path, headers={"Last-Event-ID": last})) == "header.Last-Event-ID"


def test_what_cannot_be_followed_is_refused_before_a_stream_begins(api: TestClient, database: Database) -> None:
    mine, theirs = submit(database), submit(database, tenant_id=UUID(int=7))
    for problem_id in (uuid4(), theirs):
        for last in ("", "0.0", "end"):
            is_refusal(api.get(f"/v1/problems/{problem_id}/events", params={"after": last}), 404, "not_found")
    for beyond in ("1.0", "0.1", "999999999.999999999"):
        is_refusal(api.get(f"/v1/problems/{mine}/events", params={"after": beyond}), 422, "place_beyond_record")
    assert wrong_fields(api.get(f"/v1/problems/{mine}/events", params={"last": "1.0"})) == "query.last"


def test_without_a_database_the_answer_is_a_refusal(dead_api: TestClient) -> None:
    is_refusal(dead_api.get(f"/v1/problems/{uuid4()}/events"), 503, "database_unavailable")


def test_head_has_the_headers_of_a_stream_and_does_not_wait(api: TestClient, database: Database) -> None:
    response = api.head(f"/v1/problems/{submit(database)}/events")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert api.head(f"/v1/problems/{uuid4()}/events").status_code == 404


def test_a_client_that_leaves_leaves_nothing_behind(run: Callable[..., None], database: Database) -> None:
    timed = HTTP_REQUEST_SECONDS.labels("GET", ROUTE)
    before = timed._sum.get()

    async def body(served: Served) -> None:
        problem_id = submit(database)
        stages = solving(database, problem_id)
        loop = asyncio.get_running_loop()
        tasks = len(asyncio.all_tasks())
        for leave_after in (0, 1):
            async with served.events(problem_id) as events:
                await until(lambda: served.followers() == 1)
                assert STREAMS_OPEN._value.get() == 1
                if leave_after:
                    await advance(stages)
                    await take(events, leave_after)
            await until(lambda: served.followers() == 0)
        await until(lambda: len(asyncio.all_tasks(loop)) <= tasks)
        assert database.engine.pool.checkedout() == 0

    run(body)
    assert timed._sum.get() == before, "streams would hide how long other requests take"


def test_a_process_that_stops_ends_streams_without_an_end_and_another_one_goes_on(
    run: Callable[..., None], database: Database
) -> None:
    async def body(first: Served) -> None:
        problem_id = submit(database)
        stages = solving(database, problem_id)
        async with serving(database, database) as second:
            async with first.events(problem_id) as events:
                await advance(stages)
                seen = await take(events, 1)  # The process stops while the client has not read everything.
                async with asyncio.timeout(10):
                    await first.stop()
                seen += [each async for each in events]
            assert "end" not in ids(seen)
            await advance(stages)
            async with second.events(problem_id, ids(seen)[-1]) as events:
                await until(lambda: second.followers() == 1)
                await advance(stages)
                await advance(stages)
                seen += [each async for each in events]
        assert ids(seen) == ALL

    run(body)


def test_while_the_database_is_away_a_stream_stays_open_and_then_goes_on(
    run: Callable[..., None], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "QUIET_S", 0.1)
    monkeypatch.setattr(waiting, "LOOK_EVERY_S", NEVER_S)
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with Proxy(url) as proxy, closing(Database(proxy.url)) as by_way_of:

        async def body(served: Served) -> None:
            problem_id = submit(database)
            stages = solving(database, problem_id)
            async with served.http.stream("GET", f"/v1/problems/{problem_id}/events") as response:
                lines = response.aiter_lines()
                await until(lambda: served.followers() == 1)
                proxy.cut()
                served.app.state.waiting.wake(problem_id)  # It tries to read.
                for _ in range(3):
                    async for line in lines:
                        if line == ": keep-alive":
                            break
                await advance(stages)
                proxy.mend()
                sent = [line async for line in _until_line(lines, "id: 1.1")]
                assert "id: 1.0" in sent

        run(body, by_way_of=by_way_of)


async def _until_line(lines: Any, last: str) -> Any:
    async for line in lines:
        yield line
        if line == last:
            return


def test_what_an_older_orchestrator_does_is_found_at_the_next_look(
    run: Callable[..., None], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(reasoning_state, "progress_notices", lambda _ids: [])
    monkeypatch.setattr(reasoning_state, "NOTIFY_END", "SELECT %(problem_id)s::uuid")

    async def body(served: Served) -> None:
        problem_id = submit(database)
        stages = solving(database, problem_id)
        async with served.events(problem_id) as events:
            await until(lambda: served.followers() == 1)
            for expected in STAGES:
                await advance(stages)
                assert ids(await take(events, len(expected))) == expected

    run(body)


def test_hundreds_of_streams_wait_without_a_statement_and_share_the_transactions_that_read(
    run: Callable[..., None], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOOK_EVERY_S", 0.05)

    async def body(served: Served) -> None:
        problem_ids = [submit(database) for _ in range(20)]
        commands = {key: command for key, command in start(database).items() if key in problem_ids}
        async with AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(served.events(each)) for each in problem_ids * 5]
            reads = served.app.state.following.reads
            await until(lambda: served.followers() == len(streams) and len(reads) == 0)
            transactions: list[object] = []
            note = transactions.append
            event.listen(database.engine, "begin", note)
            await asyncio.sleep(0.3)
            assert transactions == [], "the connection that listens looks for all of them"
            assert (await served.http.get("/health/live")).status_code == 200
            await asyncio.to_thread(hear, database, *(write(each, "Six sevens.") for each in commands.values()))
            assert {tuple(ids(await take(each, 2))) for each in streams} == {("1.0", "1.1")}
            event.remove(database.engine, "begin", note)
            assert len(transactions) < len(streams) / 4

    run(body)


def test_an_erased_problem_has_events_without_texts(run: Callable[..., None], database: Database) -> None:
    async def body(served: Served) -> None:
        problem_id = submit(database)
        await asyncio.to_thread(solve, database, problem_id)
        execute(database, "SELECT erase_problem(:id)", id=problem_id)
        happened = await served.read_all(problem_id)
        assert ids(happened) == ALL
        sent = [json.loads(each.data) for each in happened]
        assert {each["text"] for each in sent if "accepted_at" in each} == {""}
        assert {each["draft"]["text"] for each in sent if each.get("draft")} == {None}
        assert sent[-1]["erased_at"] is not None

    run(body)


def test_a_record_that_cannot_be_shown_ends_its_own_stream_alone(run: Callable[..., None], database: Database) -> None:
    async def body(served: Served) -> None:
        await asyncio.to_thread(solve, database, broken := submit(database))
        await asyncio.to_thread(solve, database, whole := submit(database))
        with database.session() as session:
            session.execute(text("SET LOCAL session_replication_role = replica"))
            session.execute(text("UPDATE decisions SET observation = '{}' WHERE problem_id = :id"), {"id": broken})
        first, second = await asyncio.gather(served.read_all(broken), served.read_all(whole))
        assert first == []
        assert ids(second) == ALL

    run(body)
