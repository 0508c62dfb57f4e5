"""Which transactions of orchestrators tell that problems have ended, or have new steps and decisions."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, closing, suppress
from uuid import UUID, uuid4

import pytest

from shared.domain.status import Status
from shared.store.database import Database
from shared.store.notifications import Notice, ProblemListener, listening_to_problems, progress_notices
from shared.store.port import Change
from shared.store.progress import Place
from shared.store.reasoning_state import PostgresStore
from tests.integration.solving import NOW, hear, start, submit, write

pytestmark = pytest.mark.servers


class Refused(Exception):
    """Raised to break a transaction."""


def save(database: Database, problem_id: UUID, status: Status, *, is_refused: bool = False) -> None:
    finished_at = NOW if status.is_final else None
    with PostgresStore(database).begin() as transaction:
        locked = transaction.lock([problem_id])[problem_id]
        transaction.save([Change(locked, locked.state.evolve(status=status, finished_at=finished_at))])
        if is_refused:
            raise Refused


async def take(listener: ProblemListener, count: int) -> list[Notice]:
    """Wait for the next notices, which are all of one transaction."""
    async with aclosing(listener.hear(for_s=30)) as heard:
        return [await anext(heard) for _ in range(count)]


def test_each_end_is_heard_once_after_its_commit_and_nothing_else_is(database_url: str) -> None:
    finals = [status for status in Status if status.is_final]

    async def listen(database: Database) -> None:
        problem_ids = [submit(database) for _ in finals]
        async with listening_to_problems(database) as listener:
            assert await listener.find_open(problem_ids) == dict.fromkeys(problem_ids, Place())
            for problem_id, status in zip(problem_ids, finals, strict=True):
                save(database, problem_id, Status.RUNNING)
                with suppress(Refused):
                    save(database, problem_id, status, is_refused=True)
                save(database, problem_id, status)
                # Late work of an ended problem is booked without another notification.
                save(database, problem_id, status)
                assert await take(listener, 1) == [Notice([problem_id], is_end=True)]
            assert await listener.find_open(problem_ids) == {}

    with closing(Database(database_url)) as database:
        asyncio.run(listen(database))


def test_a_transaction_notifies_once_of_all_problems_that_it_gave_steps_or_decisions(database_url: str) -> None:
    async def listen(database: Database) -> None:
        problem_ids = [submit(database) for _ in range(3)]
        async with listening_to_problems(database) as listener:
            commands = start(database)  # An admission is no progress.
            kept, escalated, ended = (commands[each] for each in problem_ids)
            hear(
                database,
                write(kept, "Six sevens are wanted."),
                write(escalated, "That makes 41.", score=0.25),
                write(ended, "Hence \\boxed{42}"),
            )
            progress, end = await take(listener, 2)
            assert (set(progress.problem_ids), progress.is_end) == (set(problem_ids), False)
            assert end == Notice([problem_ids[2]], is_end=True)
            assert await listener.find_open(problem_ids) == {problem_ids[0]: Place(1, 1), problem_ids[1]: Place(1, 0)}

    with closing(Database(database_url)) as database:
        asyncio.run(listen(database))


@pytest.mark.parametrize(("count", "notifications"), [(0, 0), (1, 1), (200, 1), (201, 2), (1000, 5)])
def test_notifications_of_progress_are_few_and_small_enough_for_postgres(count: int, notifications: int) -> None:
    problem_ids = [uuid4() for _ in range(count)]
    payloads = [each["problem_ids"] for each in progress_notices(problem_ids)]
    assert len(payloads) == notifications
    assert all(len(each) < 8000 for each in payloads)
    assert [UUID(each) for payload in payloads for each in payload.split(",")] == problem_ids
