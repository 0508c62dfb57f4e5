"""Clients that leave a request which waits for a problem: the problem is cancelled unless a retry comes for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final
from uuid import UUID

from anyio import to_thread

from shared.backoff import RECONNECT
from shared.errors import RetryableError, explain
from shared.log import about, get_logger
from shared.store.awaited import Hold, release
from shared.store.database import Database

GRACE_S: Final = 10.0
"""Seconds that a problem goes on after its last client has left. OpenAI's clients retry within 8, or after the 5 that
`Retry-After` names."""

MOST_ATTEMPTS: Final = 20
"""Maximum number of attempts to cancel a problem, which take a minute and a half: the database may be away, or somebody
may hold a lock on the problem. It then goes on to its end."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Attached:
    """The requests of this process that wait for one problem."""

    count: int
    newest: Hold


@dataclass(slots=True)
class Attachment:
    """One request that waits for a problem."""

    is_left: bool = True
    """Whether its end leaves the problem to nobody; not if the problem has ended, or the client comes back for it."""


class Leaving:
    """The problems that requests of this process wait for, and those whose clients have left."""

    def __init__(self, database: Database) -> None:
        """Take the database in which problems are cancelled."""
        self._database = database
        self._attached: dict[UUID, _Attached] = {}
        self._cancelling: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    def __len__(self) -> int:
        """Count the problems that are waited for, or whose clients have left."""
        return len(self._attached) + len(self._cancelling)

    @contextmanager
    def attached(self, hold: Hold) -> Iterator[Attachment]:
        """Register a request for the duration of the block.

        If the last request for a problem leaves it, the problem is cancelled after `GRACE_S`.
        """
        others = self._attached.get(hold.problem_id, _Attached(0, hold))
        newest = max(others.newest, hold, key=lambda each: each.since)
        self._attached[hold.problem_id] = _Attached(others.count + 1, newest)
        attachment = Attachment()
        try:
            yield attachment
        finally:
            left = self._attached.pop(hold.problem_id)
            if left.count > 1:
                self._attached[hold.problem_id] = replace(left, count=left.count - 1)
            elif attachment.is_left:
                self._start(self._cancel_later(left.newest))

    def cancel(self, hold: Hold) -> None:
        """Cancel a problem that a request needs no longer, unless other requests of this process wait for it too."""
        attached = self._attached[hold.problem_id]
        if attached.count == 1:
            self._start(self._cancel(attached.newest))

    async def stop(self) -> None:
        """Cancel what clients have left without waiting for retries: this process would not notice them."""
        self._stopping.set()
        await asyncio.gather(*self._cancelling)

    def _start(self, cancelling: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(cancelling)
        self._cancelling.add(task)  # The event loop alone would not keep it.
        task.add_done_callback(self._cancelling.discard)

    async def _cancel_later(self, hold: Hold) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await self._stopping.wait()
        if hold.problem_id in self._attached:
            return  # A retry came to this process; its own leaving is what counts.
        await self._cancel(hold)

    async def _cancel(self, hold: Hold) -> None:
        with about(hold.problem_id):
            for attempt in range(MOST_ATTEMPTS):
                try:
                    if await to_thread.run_sync(partial(self._release, hold)):
                        _log.info("left_problem_cancelled")
                    return
                except RetryableError as error:
                    _log.warning("left_problem_uncancelled", code=error.code, detail=explain(error))
                except Exception:  # noqa: BLE001 - nobody awaits the task
                    _log.exception("left_problem_uncancelled", code="internal")
                    return
                if self._stopping.is_set():
                    return
                await asyncio.sleep(RECONNECT.delay_s(attempt))

    def _release(self, hold: Hold) -> bool:
        with self._database.session() as session:
            return release(session, hold)
