"""Which transactions of orchestrators tell that problems have ended."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from uuid import UUID

import pytest

from shared.domain.status import Status
from shared.store.database import Database
from shared.store.ends import EndListener, listening_to_ends
from shared.store.port import Change
from shared.store.reasoning_state import PostgresStore
from tests.integration.solving import NOW, submit

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


async def next_end(listener: EndListener) -> UUID:
    """Wait for the next end; `hear` leaves nothing behind when it is left early."""
    heard = listener.hear(for_s=30)
    try:
        return await anext(heard)
    finally:
        await heard.aclose()


def test_each_end_is_heard_once_after_its_commit_and_nothing_else_is(database_url: str) -> None:
    database = Database(database_url)
    finals = [status for status in Status if status.is_final]
    problem_ids = [submit(database) for _ in finals]

    async def hear() -> None:
        async with listening_to_ends(database) as listener:
            assert await listener.find_ended(problem_ids) == set()
            for problem_id, status in zip(problem_ids, finals, strict=True):
                save(database, problem_id, Status.RUNNING)
                with suppress(Refused):
                    save(database, problem_id, status, is_refused=True)
                save(database, problem_id, status)
                # Late work of an ended problem is booked without another notification.
                save(database, problem_id, status)
                assert await next_end(listener) == problem_id
            assert await listener.find_ended(problem_ids) == set(problem_ids)

    asyncio.run(hear())
    database.close()
