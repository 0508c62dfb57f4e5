"""Roles that are away, as submitters and operators see them, with the real sweeps on Postgres."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, update
from starlette.testclient import TestClient

from services.orchestrator.policy_cache import PolicyCache
from services.orchestrator.presence import Listening, Presence
from services.orchestrator.sweeping import admit, attend, tell_roles
from shared.domain.fitness import Unfit
from shared.store.admission import record_processes
from shared.store.database import Database
from shared.store.port import SeenProcess
from shared.store.process_table import Process
from shared.store.reasoning_state import PostgresStore
from tests.integration.api.calls import SETTINGS, submit

pytestmark = pytest.mark.servers
SILENCE_S = 3 * SETTINGS.heartbeat_s
SINCE = datetime.now(UTC) - timedelta(minutes=5)
REFUSED = Unfit(code="access_denied", detail="The server refuses the key; set TRIM_OPENAI_API_KEY.", since=SINCE)


class Sweeper:
    """An orchestrator that has heard everything for long enough, and sweeps on demand."""

    def __init__(self, database: Database) -> None:
        seconds = iter([0.0, SILENCE_S])
        listening = Listening(monotonic=lambda: next(seconds, SILENCE_S))
        listening.caught_up()
        listening.caught_up()
        self._presence = Presence(listening, silence_s=SILENCE_S)
        self._store = PostgresStore(database)
        self._common: dict[str, Any] = {"policies": PolicyCache(self._store), "now": lambda: datetime.now(UTC)}

    def sweep(self) -> None:
        admit(self._store, window=1000, **self._common)
        attend(self._store, roles=self._presence, **self._common)
        tell_roles(self._store, roles=self._presence, **self._common)


def beat(database: Database, role: str, *, unfit: Unfit | None = None, clock_ahead_s: float | None = None) -> None:
    seen = SeenProcess(
        f"{role}-0", role=role, model="m", seen_at=datetime.now(UTC), unfit=unfit, clock_ahead_s=clock_ahead_s
    )
    with database.begin() as connection:
        record_processes(connection, [seen])


def part(api: TestClient, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in api.get("/health/ready").json()["parts"] if each["name"] == name)
    return found


def test_a_problem_shows_what_it_waits_for_and_why_and_readiness_counts_it(api: TestClient, database: Database) -> None:
    for role in ("small", "large"):
        beat(database, role)
    beat(database, "prm", unfit=REFUSED)
    made = submit(api)
    assert made["waits_for"] == []
    batch = api.post("/v1/batches", json={"problems": [{"question": "What?"}]}).json()
    sweeper = Sweeper(database)
    sweeper.sweep()
    path = made["links"]["self"]
    [awaited] = api.get(path).json()["waits_for"]
    assert datetime.fromisoformat(awaited.pop("since")) == SINCE
    assert awaited == {"role": "prm", "code": "access_denied", "detail": REFUSED.detail}
    for listing, count in (("/v1/problems", 2), (f"/v1/batches/{batch['id']}/problems", 1)):
        listed = [each["waits_for"][0] for each in api.get(listing).json()["items"]]
        assert [(each["role"], each["code"]) for each in listed] == [("prm", "access_denied")] * count
    prm = part(api, "prm")
    assert (prm["is_up"], prm["waiting"], part(api, "small")["waiting"]) == (False, 2, 0)

    beat(database, "prm")
    [awaited] = api.get(path).json()["waits_for"]
    assert awaited["code"] is None
    sweeper.sweep()
    assert api.get(path).json()["waits_for"] == []
    assert part(api, "prm")["waiting"] == 0


def test_readiness_names_unfit_and_silent_workers_and_clocks_that_are_off(api: TestClient, database: Database) -> None:
    beat(database, "small", clock_ahead_s=-120.4)
    beat(database, "large", clock_ahead_s=4.9)
    beat(database, "prm", unfit=REFUSED)
    small, large, prm = (part(api, role) for role in ("small", "large", "prm"))
    assert (small["is_up"], small["clocks_ahead_s"]) == (True, {"small-0": -120.4})
    assert "The clock of small-0 is -120 s off." in small["detail"]
    assert (large["is_up"], large["clocks_ahead_s"], large["unfit"]) == (True, {}, [])
    assert [(each["name"], each["code"]) for each in prm["unfit"]] == [("prm-0", "access_denied")]
    since = f"{SINCE:%Y-%m-%dT%H:%M:%SZ}"
    assert prm["detail"] == f"prm-0 is unfit since {since} (access_denied): {REFUSED.detail}"
    assert api.get("/health/ready").json()["status"] == "degraded"


def test_readiness_counts_no_silence_of_workers_after_the_broker_stopped_passing_heartbeats(
    api: TestClient, database: Database
) -> None:
    """Under an alarm of the broker, or while it is away, no heartbeat arrives although workers run."""
    now = datetime.now(UTC)
    blocked = Unfit(code="broker_blocked", detail="The broker accepts no messages.", since=SINCE)
    with database.session() as session:
        session.execute(delete(Process))
    last_beats = {"broker": now, "small": SINCE, "large": SINCE - timedelta(seconds=SILENCE_S + 1)}

    def readiness(*, broker_seen_at: datetime, unfit: Unfit | None) -> dict[str, Any]:
        last_beats["broker"] = broker_seen_at
        with database.begin() as connection:
            for role, seen_at in last_beats.items():
                seen = SeenProcess(
                    role, role=role, model=None, seen_at=seen_at, unfit=unfit if role == "broker" else None
                )
                record_processes(connection, [seen])
        found: dict[str, Any] = api.get("/health/ready").json()
        return found

    for found in (readiness(broker_seen_at=SINCE, unfit=None), readiness(broker_seen_at=now, unfit=blocked)):
        assert found["down"] == ["orchestrator", "broker", "large", "prm"], "large was silent before"
        as_of = f"As of {SINCE:%Y-%m-%dT%H:%M:%SZ}, before the broker stopped passing heartbeats: "
        assert [each["detail"].startswith(as_of) for each in found["parts"]] == [False] * 4 + [True] * 3
    assert "broker_blocked" in part(api, "broker")["detail"]
    assert "small" in readiness(broker_seen_at=now + timedelta(seconds=1), unfit=None)["down"], "the broker is back"


def test_a_problem_goes_on_without_a_role_as_it_was_submitted(api: TestClient, database: Database) -> None:
    for role in ("large", "prm"):
        beat(database, role)
    with database.session() as session:
        session.execute(update(Process).where(Process.name == "small-0").values(seen_at=SINCE))
    made = submit(api, when_small_away="large-only", away_patience_s=1)
    assert (made["when_small_away"], made["when_prm_away"], made["away_patience_s"]) == ("large-only", "wait", 1)
    Sweeper(database).sweep()
    shown = api.get(made["links"]["self"]).json()
    assert (shown["waits_for"], shown["escalations"], shown["epoch"]) == ([], 1, 1)
    [decision] = api.get(f"{made['links']['self']}/decisions").json()["items"]
    assert (decision["action"], decision["reason"], decision["decided_by"]) == ("escalate", "small_away", "rule")
