"""Waits until a problem ends."""

from __future__ import annotations

import asyncio
import threading
import time
from uuid import UUID

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from services.api.errors import found
from shared.domain.status import Status
from shared.store import queries
from shared.store.database import Database

POLL_S = 0.1
"""Seconds between two reads of a problem's status."""


async def wait_until_final(
    problem_id: UUID, *, tenant_id: UUID, wait_s: float, request: Request, database: Database, stopping: threading.Event
) -> None:
    """Wait until a problem ends, the time is up, the client disconnects or the process stops.

    Between two reads it holds neither a connection nor a thread.

    Raises:
        NotFound: The tenant has no such problem.
    """
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        if (await run_in_threadpool(_read_status, database, tenant_id, problem_id)).is_final:
            return
        if stopping.is_set() or await request.is_disconnected():
            return
        await asyncio.sleep(POLL_S)


def _read_status(database: Database, tenant_id: UUID, problem_id: UUID) -> Status:
    with database.session() as session:
        return Status(found(queries.read_status(session, tenant_id, problem_id)))
