"""The event loop whose callers wait in other threads."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice

import pytest

from shared.cancellation import Cancellation, Cancelled
from shared.engines.event_loop import EventLoop
from shared.engines.port import EngineStopped, StepTimeout

PATIENCE_S = 60

Call = Callable[[EventLoop, "Work", Cancellation], None]


class Work:
    """Coroutines that never finish, and report their start and their cancellation."""

    def __init__(self) -> None:
        self.begun, self.cancelled = threading.Event(), threading.Event()

    async def answer(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    async def items(self) -> AsyncGenerator[int, None]:
        yield 1
        await self.answer()


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    with closing(EventLoop("test")) as loop:
        yield loop


@pytest.fixture
def work() -> Work:
    return Work()


def iterate(loop: EventLoop, work: Work, cancellation: Cancellation, timeout_s: float = PATIENCE_S) -> None:
    for _ in loop.iterate(work.items(), cancellation, timeout_s=timeout_s):
        pass


def run(loop: EventLoop, work: Work, cancellation: Cancellation) -> None:
    loop.run(work.answer(), cancellation)


async def three() -> AsyncGenerator[int, None]:
    for item in range(3):
        yield item


def test_it_returns_and_yields_what_coroutines_do(loop: EventLoop) -> None:
    assert loop.run(asyncio.sleep(0, "answer"), Cancellation()) == "answer"
    assert list(loop.iterate(three(), Cancellation(), timeout_s=PATIENCE_S)) == [0, 1, 2]


def test_it_raises_what_coroutines_do(loop: EventLoop) -> None:
    async def fail() -> None:
        raise KeyError

    async def fail_later() -> AsyncGenerator[int, None]:
        yield 1
        raise KeyError

    with pytest.raises(KeyError):
        loop.run(fail(), Cancellation())
    items = loop.iterate(fail_later(), Cancellation(), timeout_s=PATIENCE_S)
    assert next(items) == 1
    with pytest.raises(KeyError):
        next(items)


@pytest.mark.parametrize("call", [run, iterate])
def test_a_call_that_is_cancelled_while_it_waits_is_cancelled(loop: EventLoop, work: Work, call: Call) -> None:
    cancellation = Cancellation()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(call, loop, work, cancellation)
        assert work.begun.wait(PATIENCE_S)
        cancellation.cancel()
        with pytest.raises(Cancelled):
            waiting.result(PATIENCE_S)
        assert work.cancelled.is_set(), "the caller may still have read what the coroutine was writing"


@pytest.mark.parametrize("call", [run, iterate])
def test_a_call_that_was_cancelled_before_does_not_wait(loop: EventLoop, work: Work, call: Call) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(Cancelled):
        call(loop, work, cancellation)


def test_an_item_that_takes_too_long_is_cancelled(loop: EventLoop, work: Work) -> None:
    with pytest.raises(StepTimeout):
        iterate(loop, work, Cancellation(), timeout_s=0.05)
    assert work.begun.is_set() is work.cancelled.is_set()


def test_closing_the_iterator_closes_the_generator(loop: EventLoop, work: Work) -> None:
    items = loop.iterate(work.items(), Cancellation(), timeout_s=PATIENCE_S)
    assert next(items) == 1
    assert work.begun.wait(PATIENCE_S)
    items.close()
    assert work.cancelled.is_set()


@pytest.mark.parametrize("call", [run, iterate])
def test_closing_stops_calls_that_wait_before_it_awaits_the_end(loop: EventLoop, work: Work, call: Call) -> None:
    order: list[bool] = []

    async def end() -> None:
        order.append(work.cancelled.is_set())

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(call, loop, work, Cancellation())
        assert work.begun.wait(PATIENCE_S)
        loop.close(end)
        with pytest.raises(EngineStopped):
            waiting.result(PATIENCE_S)
    assert order == [True]


@pytest.mark.parametrize("call", [run, iterate])
def test_a_closed_loop_takes_no_calls(loop: EventLoop, work: Work, call: Call) -> None:
    loop.close()
    loop.close()
    with pytest.raises(EngineStopped):
        call(loop, work, Cancellation())
    assert not work.begun.is_set()


def test_it_outlives_calls_that_leave_at_any_moment(loop: EventLoop) -> None:
    async def some(delays_s: list[float]) -> AsyncGenerator[int, None]:
        for index, delay_s in enumerate(delays_s):
            await asyncio.sleep(delay_s)
            yield index

    def leave(seed: int) -> object:
        rng, cancellation = random.Random(seed), Cancellation()
        delays_s = [rng.choice([0.0, 0.001, 0.004]) for _ in range(5)]
        threading.Timer(rng.uniform(0, 0.02), cancellation.cancel).start()
        items = loop.iterate(some(delays_s), cancellation, timeout_s=rng.choice([0.0, 0.003, PATIENCE_S]))
        try:
            with closing(items):
                return len(list(islice(items, rng.randint(1, 5))))
        except (Cancelled, StepTimeout) as error:
            return type(error)

    with ThreadPoolExecutor(8) as pool:
        assert {Cancelled, StepTimeout} & set(pool.map(leave, range(400)))
    assert list(loop.iterate(some([0.0] * 3), Cancellation(), timeout_s=PATIENCE_S)) == [0, 1, 2]
    assert not loop._tasks
