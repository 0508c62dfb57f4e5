"""A role is away unless one of its workers is fit and sends heartbeats."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from shared.domain.absences import find_away
from shared.domain.fitness import Unfit
from shared.domain.roles import WorkerRole
from shared.store.port import SeenProcess

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SMALL = WorkerRole.SMALL


def beat(name: str, *, ago_s: float = 0, unfit_since: datetime | None = None) -> SeenProcess:
    unfit = unfit_since and Unfit(code="access_denied", detail=f"The key of {name} is refused.", since=unfit_since)
    return SeenProcess(name, role=SMALL, model="m", seen_at=NOW - timedelta(seconds=ago_s), unfit=unfit)


def reason(*beats: SeenProcess) -> tuple[datetime | None, str, str] | None:
    away = find_away(beats, now=NOW, silence_s=15).get(SMALL)
    return away and (away.since, away.code, away.detail)


def test_one_fit_worker_makes_a_role_present() -> None:
    assert reason(beat("a", ago_s=15), beat("b", unfit_since=NOW), beat("c", ago_s=900)) is None
    broker = SeenProcess("broker", role="broker", model=None, seen_at=NOW)
    assert set(find_away([broker, beat("a")], now=NOW, silence_s=15)) == {WorkerRole.LARGE, WorkerRole.PRM}


def test_a_role_whose_workers_are_silent_is_away_since_the_last_heartbeat() -> None:
    detail = "No worker of the role small sends heartbeats; the last one was b."
    assert reason(beat("a", ago_s=90), beat("b", ago_s=16)) == (NOW - timedelta(seconds=16), "no_heartbeat", detail)


def test_an_unfit_worker_gives_the_reason_why_its_role_is_away() -> None:
    since = NOW - timedelta(minutes=5)
    silent = beat("silent", ago_s=60)
    found = reason(beat("a", unfit_since=since), beat("b", unfit_since=since - timedelta(minutes=1)), silent)
    assert found == (silent.seen_at, "access_denied", "The key of a is refused.")


def test_a_role_of_which_no_worker_was_seen_is_away() -> None:
    assert reason() == (None, "no_heartbeat", "No worker of the role small was seen; start one.")
