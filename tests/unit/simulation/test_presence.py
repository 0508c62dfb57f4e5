"""An orchestrator takes silence for absence only while it hears everything itself."""

from __future__ import annotations

from datetime import datetime, timedelta

from services.orchestrator.presence import Listening, Presence
from shared.domain.roles import WorkerRole
from shared.store.port import SeenProcess
from simulation.clock import START, SettableClock
from simulation.store import MemoryStore

SILENCE_S = 15.0


class Watched:
    """A presence on simulated time, and the store that it reads."""

    def __init__(self) -> None:
        self.time = SettableClock()
        self.listening = Listening(monotonic=self.time.clock.monotonic)
        self.presence = Presence(self.listening, silence_s=SILENCE_S)
        self.store = MemoryStore()

    def beat(self, *roles: WorkerRole) -> None:
        with self.store.begin() as transaction:
            transaction.record_processes(
                SeenProcess(f"{role}-1", role=role, model=None, seen_at=self.time.now) for role in roles
            )

    def listen(self, seconds: float) -> None:
        self.listening.caught_up()
        self.time.advance(seconds)
        self.listening.caught_up()

    def away(self) -> dict[str, datetime] | None:
        with self.store.begin() as transaction:
            found = self.presence(transaction, self.time.now)
        return None if found is None else dict(found)


def test_silent_roles_are_away_once_the_orchestrator_has_listened_for_as_long() -> None:
    watched = Watched()
    watched.beat(*WorkerRole)
    watched.time.advance(1000)
    assert watched.away() is None, "it has heard nothing yet"
    watched.listen(SILENCE_S - 1)
    assert watched.away() is None
    watched.beat(WorkerRole.LARGE)
    watched.listen(2)
    assert watched.away() == {WorkerRole.SMALL: START, WorkerRole.PRM: START}


def test_an_interrupted_orchestrator_takes_nobody_for_absent() -> None:
    watched = Watched()
    watched.listen(SILENCE_S)
    watched.beat(*WorkerRole)
    assert watched.away() == {}
    watched.listening.interrupted()
    watched.time.advance(3600)
    assert watched.away() is None
    watched.listen(1)
    assert watched.away() is None
    watched.beat(*WorkerRole)
    watched.listen(SILENCE_S)
    assert watched.away() == {}


def test_events_that_are_not_worked_off_may_hold_heartbeats() -> None:
    watched = Watched()
    watched.listen(SILENCE_S)
    watched.beat(*WorkerRole)
    watched.time.advance(60)
    assert watched.away() == {}, "the queue was last empty when they were heard"


def test_a_role_that_was_never_seen_is_away_since_this_was_noticed() -> None:
    watched = Watched()
    watched.listen(SILENCE_S)
    noticed = START + timedelta(seconds=SILENCE_S)
    assert watched.away() == dict.fromkeys(WorkerRole, noticed)
    watched.listen(100)
    assert watched.away() == dict.fromkeys(WorkerRole, noticed)


def test_workers_are_counted_where_all_of_a_role_complete_prefixes() -> None:
    watched = Watched()
    roles = [WorkerRole.SMALL, WorkerRole.SMALL, WorkerRole.LARGE, WorkerRole.LARGE, WorkerRole.PRM]
    seen = [
        SeenProcess(f"{role}-{number}", role=role, model=None, seen_at=START, completes_prefixes=number != 3)
        for number, role in enumerate(roles)
    ]
    with watched.store.begin() as transaction:
        transaction.record_processes(seen)
    assert watched.presence.completing == {}
    watched.away()
    assert watched.presence.completing == {WorkerRole.SMALL: 2, WorkerRole.PRM: 1}, "one large worker is an older one"
    watched.time.advance(SILENCE_S + 1)
    watched.away()
    assert watched.presence.completing == {}, "they are silent"
