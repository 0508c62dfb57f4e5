"""Clients that follow problems: the decisions and steps of a problem as they are taken, and its end.

Every front door that streams uses `Following.follow_problem`. Between two events a client holds neither a thread nor a
connection to the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import UUID

from sqlalchemy.orm import Session

from services.api.errors import found
from services.api.joined_reads import JoinedReads
from services.api.lanes import READS
from services.api.presenting import show_decision, show_problem, show_step
from services.api.schemas import problems, record
from services.api.waiting import Waiter, Waiting
from shared.errors import PermanentError
from shared.log import about, get_logger
from shared.observe import metrics
from shared.store.database import Database
from shared.store.progress import Gained, Place, Sought, find_end, read_gained
from shared.store.tables import StepRow

QUIET_S: Final = 15.0
"""Seconds without an event after which `Quiet` comes: many proxies cut a connection that is silent for 60."""

START: Final = Place()

_log = get_logger(__name__)


class PlaceBeyondRecord(PermanentError):
    """The id of the last event names more than the record of the problem holds; follow it from the start."""

    code = "place_beyond_record"


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision was taken."""

    decision: record.Decision
    place: Place
    """The place after it; a client that has it follows from there."""


@dataclass(frozen=True, slots=True)
class Stepped:
    """A step was accepted. The decisions on it came before."""

    step: record.Step
    place: Place
    """The place after it; a client that has it follows from there."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The problem has ended. It is the last event."""

    problem: problems.Problem


@dataclass(frozen=True, slots=True)
class Quiet:
    """Nothing has happened for `QUIET_S`; a front door sends something that keeps the connection open."""


Event = Decided | Stepped | Ended | Quiet


@dataclass(frozen=True, slots=True)
class _Page:
    """What one read has found for a client."""

    events: Sequence[Decided | Stepped | Ended]
    is_whole: bool
    end: Place
    """The end of the record, as of the read."""


class Following:
    """The clients that follow problems."""

    def __init__(self, database: Database, waiting: Waiting, *, silence_s: float) -> None:
        """Take the database, the clients that wait, and the seconds after which a silent process counts as away."""
        self._database = database
        self._waiting = waiting
        self._silence_s = silence_s
        self.reads: JoinedReads[tuple[Sought, str], _Page | None] = JoinedReads(self._read)

    async def follow_problem(
        self, tenant_id: UUID, problem_id: UUID, *, root_path: str, after: Place = START
    ) -> AsyncGenerator[Event]:
        """Follow a problem from a place on: `events = await following.follow_problem(...)`, then `async for`.

        The decisions on a step come before the step. The end comes last, after everything before it. If the iterator
        stops without an end, the process stops or failed, and the client follows again elsewhere from its last place.
        Close the iterator (`contextlib.aclosing`); an iterator that was never started needs no closing.

        Args:
            tenant_id: Tenant of the request.
            problem_id: Id of the problem.
            root_path: Path under which clients reach the API; links in the end begin with it.
            after: Place after the last event that the client has.

        Raises:
            NotFound: The tenant has no such problem.
            PlaceBeyondRecord: The place is not one of this problem.
            DatabaseUnavailable, DatabaseBusy: The database is away. Once the iterator has started, it waits for it.
        """
        end = found(await READS.run(partial(self._find_end, tenant_id, problem_id)))
        if after.decisions > end.decisions or after.steps > end.steps:
            raise PlaceBeyondRecord
        return self._follow(problem_id, root_path, after)

    def stop(self) -> None:
        """End all iterators soon, because the process stops."""
        self._waiting.stop()
        self.reads.stop()

    async def _follow(self, problem_id: UUID, root_path: str, after: Place) -> AsyncGenerator[Event]:
        place = after
        with self._waiting.for_progress(problem_id, place) as waiter, metrics.STREAMS_OPEN.track_inprogress():
            while not self._waiting.is_stopping:
                # Before the read, so that nothing that is saved after it goes unnoticed.
                waiter.wake.clear()
                reading = self.reads.ask((Sought(problem_id, place), root_path))
                try:
                    while not await _is_done_soon(reading):
                        yield Quiet()
                    page = _result(problem_id, reading)
                finally:
                    reading.cancel()
                if page is None:
                    return
                for event in page.events:
                    yield event
                    if isinstance(event, Ended):
                        return
                    place = event.place
                waiter.seen = page.end
                while page.is_whole and not await _is_woken_soon(waiter):
                    yield Quiet()

    def _find_end(self, tenant_id: UUID, problem_id: UUID) -> Place | None:
        with self._database.session() as session:
            return find_end(session, tenant_id, problem_id)

    def _read(self, asked: Sequence[tuple[Sought, str]]) -> list[_Page | Exception | None]:
        """Read for many clients. A record that cannot be shown is an error of its clients alone."""
        pages: list[_Page | Exception | None] = []
        with self._database.snapshot() as session:
            gained = read_gained(session, [sought for sought, _ in asked])
            for (sought, root_path), its in zip(asked, gained, strict=True):
                try:
                    pages.append(None if its is None else self._show(session, its, sought.after, root_path))
                except ValueError as error:
                    pages.append(error)
        return pages

    def _show(self, session: Session, gained: Gained, place: Place, root_path: str) -> _Page:
        events: list[Decided | Stepped | Ended] = []
        for row in gained.rows:
            if isinstance(row, StepRow):
                place = Place(place.decisions, row.step + 1)
                events.append(Stepped(show_step(row), place))
            else:
                place = Place(row.number + 1, place.steps)
                events.append(Decided(show_decision(row, gained.shadows), place))
        if gained.problem is not None:
            events.append(Ended(show_problem(session, gained.problem, root_path, silence_s=self._silence_s)))
        return _Page(events, is_whole=gained.is_whole, end=gained.end)


async def _is_done_soon(reading: asyncio.Future[_Page | None]) -> bool:
    await asyncio.wait({reading}, timeout=QUIET_S)
    return reading.done()


async def _is_woken_soon(waiter: Waiter) -> bool:
    try:
        async with asyncio.timeout(QUIET_S):
            return await waiter.wake.wait()
    except TimeoutError:
        return False


def _result(problem_id: UUID, reading: asyncio.Future[_Page | None]) -> _Page | None:
    """Return what was read; `None` if the process stops or cannot read the record: the client comes again."""
    if reading.cancelled():
        return None
    if (error := reading.exception()) is not None:
        with about(problem_id):
            _log.error("record_unreadable", error=type(error).__name__, exc_info=error)
        return None
    return reading.result()
