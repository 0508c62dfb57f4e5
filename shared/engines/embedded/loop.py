"""The background thread of an engine, and the calls that it answers."""

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
    """One caller's wish, and the way back to the thread that waits for it."""

    cancellation: Cancellation
    is_over: bool = False
    """Whether nobody listens any more, or all was said."""
    _answers: queue.SimpleQueue[Result | Exception] = field(default_factory=queue.SimpleQueue)

    def answer(self, result: Result) -> None:
        """Hand a result to the caller."""
        self._answers.put(result)

    def fail(self, error: Exception) -> None:
        """Make the caller raise an error."""
        self._answers.put(error)

    def wait(self, timeout_s: float) -> Result:
        """Wait for the next result.

        Raises:
            StepTimeout: None came in time.
            Cancelled: Cancellation was asked for.
            EngineStopped: The engine was closed meanwhile.
            EngineDead: The engine broke down.
        """
        self.cancellation.raise_if_cancelled()
        try:
            answer = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            raise StepTimeout.after(timeout_s) from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def has_left(self) -> bool:
        """Tell whether the caller is gone; one that cancelled is woken up first."""
        if not self.is_over and self.cancellation.is_cancelled:
            self.is_over = True
            self.fail(Cancelled())
        return self.is_over


class Loop(Generic[SomeCall]):
    """A background thread that takes turns for as long as there is something to do, and sleeps otherwise.

    However the thread ends, nobody is left waiting: open calls and later ones raise `EngineStopped` if it was closed,
    `EngineDead` if a turn failed.
    """

    def __init__(self, turn: Callable[[list[SomeCall]], bool], *, name: str) -> None:
        """Start the thread.

        Args:
            turn: Takes the calls that have arrived and works on all it holds for a moment; tells whether it holds
                more to do.
            name: Of the thread.
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
        """Have a call worked on for as long as the context lasts.

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
        """End the thread after its present turn; open calls raise `EngineStopped`."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            is_busy = False
            while (arrived := self._next_calls(is_busy=is_busy)) is not None:
                is_busy = self._turn(arrived)
        except Exception:  # noqa: BLE001 - whatever it is, callers must not be left to wait; it is logged, not hidden
            _log.exception("engine_broke_down", thread=self._thread.name)
            self._ending = EngineDead
        finally:
            with self._changed:
                self._is_closed = True
                for call in self._open:
                    call.fail(self._ending())

    def _next_calls(self, *, is_busy: bool) -> list[SomeCall] | None:
        """Take what has arrived, after a sleep if there is nothing to do; `None` once the loop is closed."""
        with self._changed:
            self._changed.wait_for(lambda: is_busy or self._arrived or self._is_closed)
            if self._is_closed:
                return None
            arrived, self._arrived = self._arrived, []
            return arrived
