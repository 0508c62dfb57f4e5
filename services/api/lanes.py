"""Threads for work on the database. Each kind of work has separate ones, so none waits for another.

The threads together are as many as the pool has connections, so none of them waits for a connection either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

T = TypeVar("T")

REQUEST_THREADS: Final = 13
"""Number of threads of all endpoints without a lane."""


class Lane:
    """A number of threads for one kind of work."""

    def __init__(self, name: str, *, threads: int) -> None:
        """Take a unique name and the number of threads."""
        self.threads: Final = threads
        self._limiter: RunVar[CapacityLimiter] = RunVar(f"lane of {name}")

    async def run(self, work: Callable[[], T]) -> T:
        """Run a function in a thread of the lane."""
        limiter = self._limiter.get(None)
        if limiter is None:  # It belongs to the event loop that is running, as anyio's own does.
            limiter = CapacityLimiter(self.threads)
            self._limiter.set(limiter)
        return await to_thread.run_sync(work, limiter=limiter)


READS: Final = Lane("reads", threads=4)
"""Reads single problems, for clients that wait among others: thousands of them may be woken at once."""

READINESS: Final = Lane("readiness", threads=1)

KEYS: Final = Lane("keys", threads=1)
"""Looks up keys, many in one statement."""

KEY_RECORDS: Final = Lane("records of keys", threads=1)
"""Records uses of keys and numbers of requests: no request waits for it."""

EXPORTS: Final = Lane("exports", threads=1)
"""Reads and writes portions of exports, which take turns so that they leave the database to other requests."""

INTAKE: Final = Lane("intake", threads=2)
"""Reads streams of problems; its threads use no connection."""


def limit_request_threads() -> None:
    """Limit the threads of endpoints without a lane, on the event loop that is running."""
    to_thread.current_default_thread_limiter().total_tokens = REQUEST_THREADS
