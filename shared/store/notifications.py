"""Tells processes whose clients wait for problems which problems have ended, and which have new steps or decisions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import psycopg

from shared.domain.status import Status
from shared.store.database import STATEMENT_TIMEOUT_S, Database, DatabaseBusy, translated
from shared.store.progress import Place

ENDS_CHANNEL: Final = "trim_ends"
"""Channel with the ids of problems that ended. A hint only: listeners also look at intervals, because an older
orchestrator sends nothing, and a pooler between may drop what they listen to."""

PROGRESS_CHANNEL: Final = "trim_progress"
"""Channel with the ids of problems that have new steps or decisions, many in one notification; a hint, too."""

NOTIFY_END: Final = f"SELECT pg_notify('{ENDS_CHANNEL}', %(problem_id)s::uuid::text)"
"""Notifies, at commit, that a problem has ended. The listener then finds the problem in its final state."""

NOTIFY_PROGRESS: Final = f"SELECT pg_notify('{PROGRESS_CHANNEL}', %(problem_ids)s)"
"""Notifies, at commit, that problems have new steps or decisions; `progress_notices` makes its parameters."""

_MOST_IDS: Final = 200
"""Maximum number of ids in a notification. With 33 bytes for each, they stay below the 8,000 that Postgres allows."""

FIND_OPEN: Final = "SELECT id, decision_count, step_count FROM problems WHERE id = ANY(%s) AND status = ANY(%s)"
OPEN: Final = [status.value for status in Status if not status.is_final]


@dataclass(frozen=True, slots=True)
class Notice:
    """What a transaction has done to problems."""

    problem_ids: Sequence[UUID]
    is_end: bool
    """Whether they have ended; otherwise they have new steps or decisions."""


def progress_notices(problem_ids: Sequence[UUID]) -> Iterator[Mapping[str, str]]:
    """Yield the parameters of as few notifications as hold the ids."""
    for begin in range(0, len(problem_ids), _MOST_IDS):
        yield {"problem_ids": ",".join(each.hex for each in problem_ids[begin : begin + _MOST_IDS])}


class ProblemListener:
    """One connection that receives the notices of all problems."""

    def __init__(self, connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
        """Take a connection that listens."""
        self._connection = connection

    async def hear(self, *, for_s: float) -> AsyncGenerator[Notice]:
        """Yield each notice that arrives within some seconds, as soon as its transaction has committed.

        If it is left early, the notices that arrived together with the last one are lost.

        Raises:
            DatabaseUnavailable: The connection broke.
        """
        with translated():
            async with aclosing(self._connection.notifies(timeout=for_s)) as notifications:
                async for notification in notifications:
                    with suppress(ValueError):  # Every user of the database may notify.
                        problem_ids = [UUID(each) for each in notification.payload.split(",")]
                        yield Notice(problem_ids, is_end=notification.channel == ENDS_CHANNEL)

    async def find_open(self, problem_ids: Collection[UUID]) -> Mapping[UUID, Place]:
        """Find which of some problems are open, and how long their records are, in one statement.

        Raises:
            DatabaseUnavailable: The connection broke.
            DatabaseBusy: The server did not answer in time.
        """
        async with _answering_in_time():
            found = await self._connection.execute(FIND_OPEN, [list(problem_ids), OPEN])
            return {key: Place(decisions, steps) for key, decisions, steps in await found.fetchall()}


@asynccontextmanager
async def listening_to_problems(database: Database) -> AsyncIterator[ProblemListener]:
    """Open a separate connection that receives the notices of problems, and close it after the block.

    Raises:
        DatabaseUnavailable: The server does not answer, or refuses this process.
        DatabaseBusy: The server did not answer in time.
    """
    connection = await database.connect_apart()
    try:
        async with _answering_in_time():
            await connection.execute(f"LISTEN {ENDS_CHANNEL}; LISTEN {PROGRESS_CHANNEL}")
        yield ProblemListener(connection)
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
