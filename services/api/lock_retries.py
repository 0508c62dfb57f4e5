"""Repeats work on problems that another session has locked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from shared.store.cancelling import ProblemLocked

T = TypeVar("T")

LOCK_DELAY_S: Final = 0.02
LOCK_ATTEMPTS: Final = 7
"""A request waits for a locked problem for 20 ms and twice as long each time, so for 2.5 s in all. An orchestrator
holds it for milliseconds."""


async def retry_while_locked(work: Callable[[], Awaitable[T]]) -> T:
    """Do work that raises if a problem is locked; the pauses hold no thread, which other clients may need.

    Raises:
        ProblemLocked: The problem is still locked after all attempts.
    """
    for attempt in range(LOCK_ATTEMPTS):
        try:
            return await work()
        except ProblemLocked:
            await asyncio.sleep(LOCK_DELAY_S * 2**attempt)
    return await work()
