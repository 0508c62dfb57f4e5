"""Reads that share transactions: who is answered, and what an error of one means for the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from services.api import joined_reads
from services.api.joined_reads import JoinedReads
from shared.backoff import Backoff
from shared.store.database import DatabaseUnavailable

PATIENCE_S = 30.0


class Source:
    """Answers with what is asked, times ten, and keeps what was read together."""

    def __init__(self) -> None:
        self.batches: list[Sequence[int]] = []
        self.failures: list[Exception] = []
        self.is_open = threading.Event()
        self.is_open.set()

    def read(self, asked: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(asked)
        assert self.is_open.wait(PATIENCE_S)
        if self.failures:
            raise self.failures.pop(0)
        return [ValueError("unreadable") if each < 0 else 10 * each for each in asked]


def test_what_is_asked_together_is_read_together_up_to_a_limit() -> None:
    async def body() -> None:
        source = Source()
        reads = JoinedReads(source.read)
        count = joined_reads.MOST_JOINED + 10
        async with asyncio.timeout(PATIENCE_S):
            assert await asyncio.gather(*map(reads.ask, range(count))) == [10 * each for each in range(count)]
        assert [len(each) for each in source.batches] == [joined_reads.MOST_JOINED, 10]
        assert len(reads) == 0

    asyncio.run(body())


def test_an_error_of_one_answer_is_no_error_of_the_others() -> None:
    async def body() -> None:
        reads = JoinedReads(Source().read)
        async with asyncio.timeout(PATIENCE_S):
            good, bad = await asyncio.gather(reads.ask(1), reads.ask(-1), return_exceptions=True)
        assert good == 10
        assert isinstance(bad, ValueError)

    asyncio.run(body())


def test_while_the_database_is_away_everybody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        monkeypatch.setattr(joined_reads, "RECONNECT", Backoff(first_s=0.001, limit_s=0.001))
        source = Source()
        source.failures = [DatabaseUnavailable()] * 3
        async with asyncio.timeout(PATIENCE_S):
            assert await JoinedReads(source.read).ask(1) == 10
        assert source.batches == [[1]] * 4

    asyncio.run(body())


def test_an_unexpected_error_is_raised_to_those_who_asked_and_the_next_are_answered() -> None:
    async def body() -> None:
        source = Source()
        source.failures = [KeyError("x")]
        reads = JoinedReads(source.read)
        async with asyncio.timeout(PATIENCE_S):
            raised = await asyncio.gather(reads.ask(1), reads.ask(2), return_exceptions=True)
            assert [type(each) for each in raised] == [KeyError, KeyError]
            assert await reads.ask(3) == 30

    asyncio.run(body())


def test_clients_that_leave_are_forgotten_and_a_stop_ends_all_waiting() -> None:
    async def body() -> None:
        source = Source()
        source.is_open.clear()
        reads = JoinedReads(source.read)
        gone, stays = reads.ask(1), reads.ask(2)
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        assert len(reads) == 1
        reads.stop()
        with pytest.raises(asyncio.CancelledError):
            await stays
        await asyncio.sleep(0)
        assert len(reads) == 0
        source.is_open.set()
        async with asyncio.timeout(PATIENCE_S):
            assert await reads.ask(3) == 30

    asyncio.run(body())
