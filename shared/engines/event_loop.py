"""An event loop in a thread, for engines whose library is asynchronous; callers wait for it in their own threads."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterable
from concurrent import futures
from contextlib import aclosing, suppress
from typing import Any, Generic, TypeVar

from shared.cancellation import Cancellation
from shared.engines.port import EngineStopped, StepTimeout

Answer = TypeVar("Answer")
Item = TypeVar("Item")

CANCEL_TIMEOUT_S = 5.0
"""Maximum seconds that a caller waits for its cancelled coroutine to end."""


class _Call(Generic[Answer]):
    """A coroutine on the loop, as the thread that waits for it sees it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[Any]], coroutine: Coroutine[Any, Any, Answer]
    ) -> None:
        """Start the coroutine; its task is in `tasks` while it runs."""
        self.ended: futures.Future[Answer] = futures.Future()
        """Done once the coroutine has ended; a coroutine that was merely asked to end may still use the engine."""
        self._loop = loop
        self._tasks = tasks
        self._coroutine = coroutine
        loop.call_soon_threadsafe(self._start)

    def cancel(self) -> None:
        """Ask the coroutine to end, unless it has ended."""
        if not self.ended.done():
            with suppress(RuntimeError):  # The loop is closed.
                self._loop.call_soon_threadsafe(self._cancel)

    def cancel_and_wait(self) -> None:
        """Cancel the coroutine unless it has ended, and wait for its end."""
        if not self.ended.done():
            self.cancel()
            futures.wait([self.ended], CANCEL_TIMEOUT_S)

    def result(self, cancellation: Cancellation) -> Answer:
        """Wait for the coroutine and return what it returned."""
        try:
            return self.ended.result()
        except Exception:
            cancellation.raise_if_cancelled()
            raise

    def _start(self) -> None:
        self._task = self._loop.create_task(self._coroutine)
        self._tasks.add(self._task)
        self._task.add_done_callback(self._end)

    def _cancel(self) -> None:
        self._task.cancel()

    def _end(self, task: asyncio.Task[Answer]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            self.ended.set_exception(EngineStopped())
        elif (error := task.exception()) is not None:
            self.ended.set_exception(error)
        else:
            self.ended.set_result(task.result())


class EventLoop:
    """Runs coroutines for many threads.

    A call that is cancelled, times out or is closed cancels its coroutine, and returns to the caller once it has ended.
    """

    def __init__(self, name: str) -> None:
        """Start the thread."""
        self._changes = threading.Lock()
        self._is_closed = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Answer], cancellation: Cancellation) -> Answer:
        """Run a coroutine and return what it returns.

        Raises:
            Cancelled: The cancellation was set.
            EngineStopped: The loop was closed meanwhile.
            Exception: What the coroutine raised.
        """
        call = self._begin(coroutine, cancellation)
        try:
            return call.result(cancellation)
        finally:
            call.cancel_and_wait()

    def iterate(
        self, items: AsyncGenerator[Item, None], cancellation: Cancellation, *, timeout_s: float
    ) -> Generator[Item, None, None]:
        """Yield what an asynchronous generator yields; closing the iterator closes the generator.

        Raises:
            StepTimeout: An item took longer than `timeout_s`.
            Exception: As `run`.
        """
        arrived: queue.SimpleQueue[Item | futures.Future[None]] = queue.SimpleQueue()

        async def forward() -> None:
            async with aclosing(items):
                async for item in items:
                    arrived.put(item)

        call = self._begin(forward(), cancellation)
        call.ended.add_done_callback(arrived.put)
        try:
            while (item := _next(arrived, timeout_s)) is not call.ended:
                cancellation.raise_if_cancelled()
                yield item  # type: ignore[misc]  # the only future in the queue is `ended`
            call.result(cancellation)
        finally:
            call.cancel_and_wait()

    def close(self, end: Callable[[], Awaitable[object]] | None = None) -> None:
        """Cancel the calls that run, then all other tasks, await `end`, and stop the thread."""
        with self._changes:
            if self._is_closed:
                return
            self._is_closed = True
        asyncio.run_coroutine_threadsafe(self._end(end), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _begin(self, coroutine: Coroutine[Any, Any, Answer], cancellation: Cancellation) -> _Call[Answer]:
        with self._changes:
            if self._is_closed:
                coroutine.close()
                raise EngineStopped
            call = _Call(self._loop, self._tasks, coroutine)
        cancellation.when_cancelled(call.cancel)
        return call

    async def _end(self, end: Callable[[], Awaitable[object]] | None) -> None:
        # Calls first: to end in good order, they need the tasks that the library runs beside them.
        await _cancel(self._tasks)
        await _cancel(asyncio.all_tasks() - {asyncio.current_task()})
        if end is not None:
            await end()


def _next(arrived: queue.SimpleQueue[Item], timeout_s: float) -> Item:
    try:
        return arrived.get(timeout=timeout_s)
    except queue.Empty:
        raise StepTimeout.after(timeout_s) from None


async def _cancel(tasks: Iterable[asyncio.Task[Any] | None]) -> None:
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
