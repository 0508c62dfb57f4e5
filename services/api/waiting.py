"""Clients that wait until a problem ends. One connection for the whole process receives the ends and wakes them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn
from uuid import UUID

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from shared.backoff import RECONNECT
from shared.errors import RetryableError, explain
from shared.log import get_logger
from shared.store.database import Database
from shared.store.ends import EndListener, listening_to_ends

LONGEST_WAIT_S: Final = 55.0
"""Maximum number of seconds that a client waits. Many proxies cut a connection that was silent for 60."""

LOOK_EVERY_S: Final = 5.0
"""Seconds between two looks at the problems that clients wait for, in one statement for all of them. They find what no
notification named: the end of a problem under an older orchestrator, or behind a pooler that drops `LISTEN`."""

_log = get_logger(__name__)


class Waiting:
    """The clients that wait, by the problem that they wait for."""

    def __init__(self) -> None:
        self._waiting: dict[UUID, set[asyncio.Event]] = {}
        self.is_stopping = False
        """Whether the process stops: no client waits any more, nor is another look worth its time."""

    def __len__(self) -> int:
        """Count the clients that wait."""
        return sum(map(len, self._waiting.values()))

    @contextmanager
    def for_end(self, problem_id: UUID) -> Iterator[asyncio.Event]:
        """Register a client for the duration of the block; the event is set when it has to read the problem."""
        wake = asyncio.Event()
        if self.is_stopping:
            wake.set()
        self._waiting.setdefault(problem_id, set()).add(wake)
        try:
            yield wake
        finally:
            others = self._waiting[problem_id]
            others.discard(wake)
            if not others:
                del self._waiting[problem_id]

    def wake(self, problem_id: UUID) -> None:
        """Wake the clients that wait for a problem."""
        for each in self._waiting.get(problem_id, ()):
            each.set()

    def stop(self) -> None:
        """Wake all clients, and let no other wait."""
        self.is_stopping = True
        for problem_id in self._waiting:
            self.wake(problem_id)

    async def follow(self, database: Database) -> None:
        """Wake clients whenever a problem ends, until cancelled. A broken connection is opened again."""
        attempt = 0
        while True:
            try:
                async with listening_to_ends(database) as listener:
                    attempt = 0
                    await self._hear(listener)
            except RetryableError as error:
                _log.warning("ends_unheard", code=error.code, detail=explain(error))
            except Exception:  # noqa: BLE001 - without this task, every client would wait for as long as it may
                _log.exception("ends_unheard", code="internal")
            await asyncio.sleep(RECONNECT.delay_s(attempt))
            attempt += 1

    async def _hear(self, listener: EndListener) -> None:
        """Wake clients; first those whose problems ended before the connection listened."""
        while True:
            if self._waiting:
                for problem_id in await listener.find_ended(list(self._waiting)):
                    self.wake(problem_id)
            async for problem_id in listener.hear(for_s=LOOK_EVERY_S):
                self.wake(problem_id)


async def wait_for(wake: asyncio.Event, *, longest_s: float, receive: Receive) -> None:
    """Wait until a client is woken, or for some seconds. Holds neither a connection nor a thread.

    Raises:
        ClientDisconnect: The client is gone.
    """
    woken, left = asyncio.create_task(wake.wait()), asyncio.create_task(_see_it_leave(receive))
    try:
        await asyncio.wait({woken, left}, timeout=longest_s, return_when=asyncio.FIRST_COMPLETED)
        if left.done():
            await left
    finally:
        woken.cancel()
        left.cancel()


async def _see_it_leave(receive: Receive) -> NoReturn:
    while (await receive())["type"] != "http.disconnect":
        pass
    raise ClientDisconnect
