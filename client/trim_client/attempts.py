"""What a request takes, as a generator: it yields what to do next and receives what came of it. No input or output.

Both clients run the same generators; only how they send and sleep differs.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from trim_client import calls
from trim_client.calls import Call, Id
from trim_client.errors import Answer, Refused, TrimClientError, WaitTimedOut, unreachable
from trim_client.models.problems import Batch, Problem

T = TypeVar("T")
Draw: TypeAlias = Callable[[], float]
Clock: TypeAlias = Callable[[], float]

PATIENCE_S: Final = 300.0
"""Seconds for which a wait or a stream without a time limit goes on although the service does not answer."""

LONGEST_WAIT_S: Final = 50.0
"""Seconds that one request waits for the end of a problem: the service answers after 55 at the latest."""

LOOK_S: Final = 0.5
"""Least number of seconds between two looks at a problem whose end the service did not wait for."""

BATCH_LOOKS_S: Final = (0.25, 3.0)
"""Seconds between two looks at a batch: at first, and at most."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request."""

    call: Call[Any]


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer came."""

    error: Exception


Flow: TypeAlias = Generator[Send | Sleep, Answer | Lost | None, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """When a request is sent again. Delays double up to a limit, and are shortened at random.

    Without the jitter, clients that lost the same service would all return at the same moments.
    """

    max_retries: int
    first_s: float = 0.5
    limit_s: float = 8.0
    longest_retry_after_s: float = 60.0
    """A service that asks to wait longer than this is not waited for: the caller decides."""
    draw: Draw = random.random

    def delay_s(self, attempt: int, error: TrimClientError) -> float | None:
        """Return the seconds to wait after a failed attempt, the first being number 0; `None` to give up."""
        if not error.may_pass or attempt >= self.max_retries:
            return None
        return self.pause_s(attempt, error)

    def pause_s(self, attempt: int, error: TrimClientError) -> float | None:
        """Return the seconds to wait, however many attempts there were; `None` if the service asks for too long."""
        asked_s = error.retry_after_s if isinstance(error, Refused) else None
        if asked_s is None:
            return min(self.limit_s, self.first_s * 2.0 ** min(attempt, 32)) * (1 - 0.5 * self.draw())
        # Never earlier than asked.
        return None if asked_s > self.longest_retry_after_s else asked_s * (1 + 0.1 * self.draw())


def attempts(call: Call[T], retries: Retries, *, address: str) -> Flow[T]:
    """Send a request until it succeeds, fails permanently, or has failed too often."""
    attempt = 0
    while True:
        outcome = yield Send(call)
        try:
            return _result(call, outcome, address=address)
        except TrimClientError as error:
            if (delay_s := retries.delay_s(attempt, error)) is None:
                raise
        yield Sleep(delay_s)
        attempt += 1


def _result(call: Call[T], outcome: Answer | Lost | None, *, address: str) -> T:
    if isinstance(outcome, Lost):
        raise unreachable(outcome.error, address=address) from outcome.error
    assert outcome is not None
    return call.result_of(outcome, address=address)


class Patience:
    """Decides how long a lost service is waited for: until the time limit, or without one for `PATIENCE_S`.

    A service that never answered is abandoned as by any other request.
    """

    def __init__(self, retries: Retries, *, timeout_s: float | None, clock: Clock = time.monotonic) -> None:
        self._retries, self._clock = retries, clock
        self._until = None if timeout_s is None else clock() + timeout_s
        self._heard_at: float | None = None
        self._attempt = 0

    @property
    def left_s(self) -> float | None:
        """Seconds until the time limit, at least 0; `None` without one."""
        return None if self._until is None else max(0.0, self._until - self._clock())

    @property
    def is_over(self) -> bool:
        """Whether the time limit has passed."""
        return self.left_s == 0

    def hear(self) -> None:
        """Note that the service answered."""
        self._heard_at = self._clock()
        self._attempt = 0

    def pause_s(self, error: TrimClientError) -> float | None:
        """Return the seconds to wait after an error; `None` if it is to be raised."""
        if self._heard_at is None:
            delay_s = self._retries.delay_s(self._attempt, error)
        elif not error.may_pass or (self._until is None and self._clock() > self._heard_at + PATIENCE_S):
            delay_s = None
        else:
            delay_s = self._retries.pause_s(self._attempt, error)
        self._attempt += 1
        left_s = self.left_s
        if delay_s is None or left_s == 0:
            return None
        return delay_s if left_s is None else min(delay_s, left_s)


def until_ended(problem_id: Id, patience: Patience, *, address: str, clock: Clock = time.monotonic) -> Flow[Problem]:
    """Wait until a problem ends. A connection that is lost meanwhile is made again.

    Raises:
        WaitTimedOut: The time limit passed before; the problem goes on.
    """
    last: Problem | None = None
    while True:
        left_s, began = patience.left_s, clock()
        call = calls.problem(problem_id, wait_s=LONGEST_WAIT_S if left_s is None else min(left_s, LONGEST_WAIT_S))
        outcome = yield Send(call)
        try:
            last = _result(call, outcome, address=address)
        except TrimClientError as error:
            if (delay_s := patience.pause_s(error)) is None:
                if last is not None and patience.is_over and error.may_pass:
                    raise _timed_out("problem", problem_id, last) from error
                raise
            yield Sleep(delay_s)
            continue
        patience.hear()
        if last.has_ended:
            return last
        if patience.is_over:
            raise _timed_out("problem", problem_id, last)
        # A service that stops answers without waiting; one that is busy must not be asked in a tight loop.
        if (early_s := LOOK_S - (clock() - began)) > 0:
            yield Sleep(early_s)


def until_batch_ended(
    batch_id: Id, patience: Patience, *, address: str, show: Callable[[Batch], object] | None
) -> Flow[Batch]:
    """Wait until all problems of a batch have ended, by looking at it again and again.

    Raises:
        WaitTimedOut: The time limit passed before; the batch goes on.
    """
    last: Batch | None = None
    pause_s, longest_s = BATCH_LOOKS_S
    while True:
        call = calls.batch(batch_id)
        outcome = yield Send(call)
        try:
            last = _result(call, outcome, address=address)
        except TrimClientError as error:
            if (delay_s := patience.pause_s(error)) is None:
                if last is not None and patience.is_over and error.may_pass:
                    raise _timed_out("batch", batch_id, last) from error
                raise
            yield Sleep(delay_s)
            continue
        patience.hear()
        if show is not None:
            show(last)
        if last.has_ended:
            return last
        if patience.is_over:
            raise _timed_out("batch", batch_id, last)
        left_s = patience.left_s
        yield Sleep(pause_s if left_s is None else min(pause_s, left_s))
        pause_s = min(longest_s, pause_s * 1.5)


def _timed_out(kind: str, its_id: Id, last: Problem | Batch) -> WaitTimedOut:
    state = last.status if isinstance(last, Problem) else f"open in {last.open} of {last.size} problems"
    return WaitTimedOut(f"The {kind} {its_id} is still {state} at the end of the time limit; it goes on.", last)
