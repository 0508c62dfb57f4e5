"""Tells processes that wait for problems which of them have ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Final
from uuid import UUID

import psycopg

from shared.domain.status import Status
from shared.store.database import STATEMENT_TIMEOUT_S, Database, DatabaseBusy, translated

ENDS_CHANNEL: Final = "trim_ends"
"""Channel with the ids of problems that ended. A hint only: listeners also look at intervals, because an older
orchestrator sends nothing, and a pooler between may drop what they listen to."""

NOTIFY_END: Final = f"SELECT pg_notify('{ENDS_CHANNEL}', %(problem_id)s::uuid::text)"
"""Notifies, at commit, that a problem has ended. The listener then finds the problem in its final state."""

_FIND_OPEN: Final = "SELECT id FROM problems WHERE id = ANY(%s) AND status = ANY(%s)"
_OPEN: Final = [status.value for status in Status if not status.is_final]


class EndListener:
    """One connection that receives the ends of all problems."""

    def __init__(self, connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
        """Take a connection that listens."""
        self._connection = connection

    async def hear(self, *, for_s: float) -> AsyncIterator[UUID]:
        """Yield the id of each problem that ends within some seconds, as soon as it has ended.

        Raises:
            DatabaseUnavailable: The connection broke.
        """
        with translated():
            async with aclosing(self._connection.notifies(timeout=for_s)) as notifications:
                async for notification in notifications:
                    with suppress(ValueError):  # Every user of the database may notify.
                        yield UUID(notification.payload)

    async def find_ended(self, problem_ids: Collection[UUID]) -> Collection[UUID]:
        """Find which of some problems are not open any more, in one statement.

        Raises:
            DatabaseUnavailable: The connection broke.
            DatabaseBusy: The server did not answer in time.
        """
        async with _answering_in_time():
            found = await self._connection.execute(_FIND_OPEN, [list(problem_ids), _OPEN])
            still_open = {row[0] for row in await found.fetchall()}
        return set(problem_ids) - still_open


@asynccontextmanager
async def listening_to_ends(database: Database) -> AsyncIterator[EndListener]:
    """Open a separate connection that receives the ends of problems, and close it after the block.

    Raises:
        DatabaseUnavailable: The server does not answer, or refuses this process.
        DatabaseBusy: The server did not answer in time.
    """
    connection = await database.connect_apart()
    try:
        async with _answering_in_time():
            await connection.execute(f"LISTEN {ENDS_CHANNEL}")
        yield EndListener(connection)
    finally:
        await connection.close()


@asynccontextmanager
async def _answering_in_time() -> AsyncIterator[None]:
    """Raise typed errors, also if the server keeps the connection and does not answer."""
    with translated():
        try:
            async with asyncio.timeout(STATEMENT_TIMEOUT_S):
                yield
        except TimeoutError as error:
            raise DatabaseBusy from error
