"""The thread of an engine, and the calls that it serves."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import structlog

from shared.cancellation import Cancellation, Cancelled
from shared.engines.port import EngineDead, EngineStopped, StepTimeout

Result = TypeVar("Result")
SomeCall = TypeVar("SomeCall", bound="Call[Any]")

_log = structlog.get_logger(__name__)


@dataclass(kw_only=True, eq=False)
class Call(Generic[Result]):
    """A call, and the queue through which its results reach the thread that waits for them."""

    cancellation: Cancellation
    is_over: bool = False
    """Whether the caller has left, or has got all results."""
    _results: queue.SimpleQueue[Result | Exception] = field(default_factory=queue.SimpleQueue)

    def answer(self, result: Result) -> None:
        """Hand a result to the caller."""
        self._results.put(result)

    def fail(self, error: Exception) -> None:
        """Make the caller raise an error."""
        self._results.put(error)

    def wait(self, timeout_s: float) -> Result:
        """Wait for the next result.

        Raises:
            StepTimeout: There was no result in time.
            Cancelled: The cancellation was set.
            EngineStopped: The engine was closed meanwhile.
            EngineDead: The engine broke down.
        """
        self.cancellation.raise_if_cancelled()
        try:
            result = self._results.get(timeout=timeout_s)
        except queue.Empty:
            raise StepTimeout.after(timeout_s) from None
        if isinstance(result, Exception):
            raise result
        return result

    def has_left(self) -> bool:
        """Return whether the caller has left; wakes up a caller that was cancelled."""
        if not self.is_over and self.cancellation.is_cancelled:
            self.is_over = True
            self.fail(Cancelled())
        return self.is_over


class Loop(Generic[SomeCall]):
    """A thread that takes turns while there is something to do, and sleeps otherwise.

    However the thread ends, no caller waits for ever: open and later calls raise `EngineStopped` if the loop was
    closed, and `EngineDead` if a turn failed.
    """

    def __init__(self, turn: Callable[[list[SomeCall]], bool], *, name: str) -> None:
        """Start the thread.

        Args:
            turn: Takes the calls that have arrived and works for a short time; returns whether there is more to do.
            name: Name of the thread.
        """
        self._turn = turn
        self._changed = threading.Condition()
        self._arrived: list[SomeCall] = []
        self._open: set[SomeCall] = set()
        self._is_closed = False
        self._ending: type[EngineStopped | EngineDead] = EngineStopped
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @contextmanager
    def submitted(self, call: SomeCall) -> Iterator[SomeCall]:
        """Serve a call until the context ends.

        Raises:
            EngineStopped: The loop was closed.
            EngineDead: A turn failed.
        """
        call.cancellation.raise_if_cancelled()
        with self._changed:
            if self._is_closed:
                raise self._ending
            self._open.add(call)
            self._arrived.append(call)
            self._changed.notify()
        try:
            yield call
        finally:
            call.is_over = True
            with self._changed:
                self._open.discard(call)

    def check(self) -> None:
        """Raise `EngineDead` if a turn failed."""
        if self._ending is EngineDead:
            raise EngineDead

    def close(self) -> None:
        """End the thread after its current turn; open calls raise `EngineStopped`."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            is_busy = False
            while (arrived := self._next_calls(is_busy=is_busy)) is not None:
                is_busy = self._turn(arrived)
        except Exception:  # noqa: BLE001 - whatever failed, callers must not wait for ever; it is logged
            _log.exception("engine_broke_down", thread=self._thread.name)
            self._ending = EngineDead
        finally:
            with self._changed:
                self._is_closed = True
                for call in self._open:
                    call.fail(self._ending())

    def _next_calls(self, *, is_busy: bool) -> list[SomeCall] | None:
        """Return the calls that have arrived, after sleeping while there is nothing to do; `None` once closed."""
        with self._changed:
            self._changed.wait_for(lambda: is_busy or self._arrived or self._is_closed)
            if self._is_closed:
                return None
            arrived, self._arrived = self._arrived, []
            return arrived
