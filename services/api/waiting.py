"""Clients that wait for problems. One connection of the process receives the notices of all problems and wakes them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NoReturn
from uuid import UUID

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from shared.backoff import RECONNECT
from shared.errors import RetryableError, explain
from shared.log import get_logger
from shared.store.database import Database
from shared.store.notifications import ProblemListener, listening_to_problems
from shared.store.progress import Place

LONGEST_WAIT_S: Final = 55.0
"""Maximum number of seconds that a client waits. Many proxies cut a connection that was silent for 60."""

LOOK_EVERY_S: Final = 5.0
"""Seconds between two looks at the problems that clients wait for, in one statement for all of them. They find what no
notification named: what an older orchestrator did, or what happened behind a pooler that drops `LISTEN`."""

_log = get_logger(__name__)


@dataclass(slots=True, eq=False)
class Waiter:
    """A client that waits for a problem."""

    seen: Place | None
    """The end of the problem's record as the client has last read it; `None` if it waits for the problem's end."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client has to read. Events that arrive while it is set, or while the client does not look, add
    nothing: it reads everything from its place on."""


class Waiting:
    """The clients that wait, by the problem that they wait for."""

    def __init__(self) -> None:
        self._waiting: dict[UUID, set[Waiter]] = {}
        self.is_stopping = False
        """Whether the process stops: no client waits any more, nor is another look worth its time."""

    def __len__(self) -> int:
        """Count the clients that wait."""
        return sum(map(len, self._waiting.values()))

    @contextmanager
    def for_end(self, problem_id: UUID) -> Iterator[asyncio.Event]:
        """Register a client for the duration of the block; the event is set when it has to read the problem."""
        with self._registered(problem_id, Waiter(seen=None)) as waiter:
            yield waiter.wake

    @contextmanager
    def for_progress(self, problem_id: UUID, seen: Place) -> Iterator[Waiter]:
        """Register a client for the duration of the block; it is woken when the problem's record grows or ends."""
        with self._registered(problem_id, Waiter(seen=seen)) as waiter:
            yield waiter

    @contextmanager
    def _registered(self, problem_id: UUID, waiter: Waiter) -> Iterator[Waiter]:
        if self.is_stopping:
            waiter.wake.set()
        self._waiting.setdefault(problem_id, set()).add(waiter)
        try:
            yield waiter
        finally:
            others = self._waiting[problem_id]
            others.discard(waiter)
            if not others:
                del self._waiting[problem_id]

    def wake(self, problem_id: UUID, *, is_end: bool = True) -> None:
        """Wake the clients that wait for a problem: all of them at its end, otherwise those that wait for progress."""
        for each in self._waiting.get(problem_id, ()):
            if is_end or each.seen is not None:
                each.wake.set()

    def stop(self) -> None:
        """Wake all clients, and let no other wait."""
        self.is_stopping = True
        for problem_id in self._waiting:
            self.wake(problem_id)

    async def follow(self, database: Database) -> None:
        """Wake clients whenever problems make progress or end, until cancelled. A broken connection is opened again."""
        attempt = 0
        while True:
            try:
                async with listening_to_problems(database) as listener:
                    attempt = 0
                    await self._hear(listener)
            except RetryableError as error:
                _log.warning("problems_unheard", code=error.code, detail=explain(error))
            except Exception:  # noqa: BLE001 - without this task, every client would wait for as long as it may
                _log.exception("problems_unheard", code="internal")
            await asyncio.sleep(RECONNECT.delay_s(attempt))
            attempt += 1

    async def _hear(self, listener: ProblemListener) -> None:
        """Wake clients; first those that missed something before the connection listened."""
        while True:
            if self._waiting:
                await self._look(listener)
            async for notice in listener.hear(for_s=LOOK_EVERY_S):
                for problem_id in notice.problem_ids:
                    self.wake(problem_id, is_end=notice.is_end)

    async def _look(self, listener: ProblemListener) -> None:
        """Wake clients whose problems have ended, or have longer records than they have seen."""
        looked_for = list(self._waiting)
        still_open = await listener.find_open(looked_for)
        for problem_id in looked_for:
            if (end := still_open.get(problem_id)) is None:
                self.wake(problem_id)
                continue
            for each in self._waiting.get(problem_id, ()):
                if each.seen not in (None, end):
                    each.wake.set()


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
