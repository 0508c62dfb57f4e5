"""The driver's pipelines, after which the server still times an idle transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg


class _Pipeline(psycopg.Pipeline):
    """A pipeline that sends nothing after its `Sync`.

    The driver's own sends a `Flush` then. The server stops `idle_in_transaction_session_timeout` when it reads that and
    starts it again only after the next statement, so a process that hangs here would keep its locks.
    """

    def _exit_gen(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            self._enqueue_sync()
            yield from self._communicate_gen()
        finally:
            yield from self._fetch_gen(flush=False)


@contextmanager
def pipeline(driver: psycopg.Connection[Any]) -> Iterator[None]:
    """Send the statements of the block together; their results are there after it."""
    driver._pipeline = _Pipeline(driver)  # noqa: SLF001 - `driver.pipeline()` uses the one that is there
    with driver.pipeline():
        yield
