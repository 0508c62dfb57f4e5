"""A thread with an event loop, for engines whose library is asynchronous: callers wait in threads of their own."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from concurrent import futures
from contextlib import aclosing
from typing import Any, TypeVar

from shared.cancellation import Cancellation
from shared.engines.port import EngineStopped, StepTimeout

Answer = TypeVar("Answer")
Item = TypeVar("Item")


class EventLoop:
    """Runs the coroutines of many threads; a call that is cancelled, given up or closed cancels its coroutine."""

    def __init__(self, name: str) -> None:
        """Start the thread."""
        self._changes = threading.Lock()
        self._is_closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Answer], cancellation: Cancellation) -> Answer:
        """Run a coroutine and return what it returns.

        Raises:
            Cancelled: Cancellation was asked for.
            EngineStopped: The loop was closed meanwhile.
            Exception: What the coroutine raised.
        """
        future = self._begin(coroutine, cancellation)
        try:
            return _result(future, cancellation)
        finally:
            future.cancel()

    def iterate(
        self, items: AsyncGenerator[Item, None], cancellation: Cancellation, *, timeout_s: float
    ) -> Generator[Item, None, None]:
        """Yield what an asynchronous generator yields; closing the iterator closes it.

        Raises:
            StepTimeout: An item took longer than `timeout_s`.
            Exception: As `run`.
        """
        arrived: queue.SimpleQueue[Item | futures.Future[None]] = queue.SimpleQueue()

        async def pass_on() -> None:
            async with aclosing(items):
                async for item in items:
                    arrived.put(item)

        future = self._begin(pass_on(), cancellation)
        future.add_done_callback(arrived.put)
        try:
            while (item := _next(arrived, timeout_s)) is not future:
                cancellation.raise_if_cancelled()
                yield item  # type: ignore[misc]  # a future is nobody's item
            _result(future, cancellation)
        finally:
            future.cancel()

    def close(self, end: Callable[[], Awaitable[object]] | None = None) -> None:
        """Cancel all that runs, await an end of the caller's choice, and end the thread."""
        with self._changes:
            if self._is_closed:
                return
            self._is_closed = True
        asyncio.run_coroutine_threadsafe(_cancel_all(end), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _begin(self, coroutine: Coroutine[Any, Any, Answer], cancellation: Cancellation) -> futures.Future[Answer]:
        with self._changes:
            if self._is_closed:
                coroutine.close()
                raise EngineStopped
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        cancellation.when_cancelled(future.cancel)
        return future


def _next(arrived: queue.SimpleQueue[Item], timeout_s: float) -> Item:
    try:
        return arrived.get(timeout=timeout_s)
    except queue.Empty:
        raise StepTimeout.after(timeout_s) from None


def _result(future: futures.Future[Answer], cancellation: Cancellation) -> Answer:
    try:
        return future.result()
    except futures.CancelledError:
        cancellation.raise_if_cancelled()
        raise EngineStopped from None


async def _cancel_all(end: Callable[[], Awaitable[object]] | None) -> None:
    running = asyncio.all_tasks() - {asyncio.current_task()}
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    if end is not None:
        await end()
