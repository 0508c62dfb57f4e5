"""Joins the reads of many clients: whatever they ask for while one transaction reads is read together in the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Generic, TypeVar

from services.api.lanes import READS
from shared.backoff import RECONNECT
from shared.errors import RetryableError, explain
from shared.log import get_logger

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

MOST_JOINED: Final = 64
"""Maximum number of reads of one transaction; the others wait for the next one."""

_log = get_logger(__name__)


class JoinedReads(Generic[Asked, Answer]):
    """Reads for many clients, with one transaction at a time.

    An orchestrator saves the steps of many problems in one transaction, which wakes all clients that follow them at
    once. One transaction for 64 of them takes four times as much CPU time as one for a single client, and not 64 times.
    """

    def __init__(self, read: Callable[[Sequence[Asked]], Sequence[Answer | Exception]]) -> None:
        """Take the function that reads, in a thread: it returns an answer or an error for each of what is asked."""
        self._read = read
        self._asked: dict[asyncio.Future[Answer], Asked] = {}
        """What is not answered yet, oldest first."""
        self._reading: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Count the reads that are not answered yet."""
        return len(self._asked)

    def ask(self, asked: Asked) -> asyncio.Future[Answer]:
        """Return the answer to come. While the database is away, it waits; `stop` cancels it.

        A client that is not interested any more cancels it.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked[answer] = asked
        answer.add_done_callback(self._forget)
        if self._reading is None:
            self._reading = asyncio.create_task(self._answer_all())
        return answer

    def stop(self) -> None:
        """Cancel all reads that are not answered yet."""
        for each in [*self._asked]:
            each.cancel()

    def _forget(self, answer: asyncio.Future[Answer]) -> None:
        self._asked.pop(answer, None)

    async def _answer_all(self) -> None:
        """Read until nothing is asked any more."""
        attempt = 0
        try:
            while self._asked:
                try:
                    await self._answer_some()
                    attempt = 0
                except RetryableError as error:
                    _log.warning("progress_unread", code=error.code, detail=explain(error))
                    await asyncio.sleep(RECONNECT.delay_s(attempt))
                    attempt += 1
        finally:
            self._reading = None

    async def _answer_some(self) -> None:
        """Read for those who have waited longest.

        Raises:
            RetryableError: The database is away; nothing is answered.
        """
        taken = dict([*self._asked.items()][:MOST_JOINED])
        try:
            answers = await READS.run(partial(self._read, [*taken.values()]))
        except RetryableError:
            raise
        except Exception as error:  # noqa: BLE001 - otherwise the clients would wait for ever
            answers = [error] * len(taken)
        for future, answer in zip(taken, answers, strict=True):
            self._forget(future)  # Not later, as a callback: the next read begins before it.
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
