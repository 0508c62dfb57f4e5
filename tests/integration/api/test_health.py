"""The service itself: its policies and its health."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.testclient import TestClient

from services.api.app import create_app
from shared.domain.demonstration import DIGESTS, RUNNING
from shared.policies.registry import POLICIES
from shared.store.admission import record_processes
from shared.store.compatibility import REVISION
from shared.store.database import Database
from shared.store.port import SeenProcess
from shared.store.process_table import Process
from stack.scratch import scratch_database
from tests.integration.api.calls import QUESTION, SETTINGS, is_refusal, submit

pytestmark = pytest.mark.servers


def test_policies_come_with_the_schema_of_their_parameters(api: TestClient) -> None:
    listed = {each["name"]: each for each in api.get("/v1/policies").json()}
    assert set(listed) == set(POLICIES)
    threshold = listed["threshold"]
    assert threshold["revision"] == 2
    assert threshold["description"].startswith("Escalate a draft whose PRM score is below a threshold")
    assert "neither calls the PRM" not in threshold["description"], "the first paragraph only"
    assert threshold["parameters"]["properties"]["threshold"]["maximum"] == 1


def test_readiness_names_every_part_and_its_heartbeats(postgres_server: str) -> None:
    with scratch_database(postgres_server) as url, closing(Database(url)) as database:
        api = TestClient(create_app(SETTINGS, database))
        without_roles = api.get("/health/ready")
        assert without_roles.status_code == 200, "submissions are accepted without workers"
        assert without_roles.json()["status"] == "degraded"
        assert without_roles.json()["down"] == ["orchestrator", "broker", "small", "large", "prm"]
        submit(api)

        now = datetime.now(UTC)
        with database.begin() as connection:
            for role in ("orchestrator", "broker", "small", "large"):
                record_processes(connection, [SeenProcess(f"{role}-0", role=role, model=None, seen_at=now)])
            silent = SeenProcess("prm-0", role="prm", model="m", seen_at=now - timedelta(seconds=16))
            record_processes(connection, [silent])
        some = api.get("/health/ready").json()
        assert (some["status"], some["down"]) == ("degraded", ["prm"])
        parts = {part["name"]: part for part in some["parts"]}
        assert list(parts) == ["database", "schema", "orchestrator", "broker", "small", "large", "prm"]
        assert "small-0" in json.dumps(parts["small"])
        assert parts["small"]["is_up"]

        with database.session() as session:
            session.execute(update(Process).values(seen_at=datetime.now(UTC)))
        ready = api.get("/health/ready").json()
        assert ready["down"] == []
        assert [part["models"] for part in (*some["parts"], *ready["parts"])] == [[]] * 13 + [["m"]]

        with database.session() as session:
            session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        newer = api.get("/health/ready").json()
        assert newer["down"] == [], "the newer schema allows this version"

        with database.session() as session:
            session.execute(text("UPDATE schema_compatibility SET oldest_code = '9000'"))
        other = api.get("/health/ready")
        assert other.status_code == 503
        assert "schema" in other.json()["down"]
        assert "database" not in other.json()["down"]


def test_readiness_has_a_note_while_a_bundled_model_runs(api: TestClient, database: Database) -> None:
    def note() -> object:
        return api.get("/health/ready").json()["note"]

    def beat(model: str) -> None:
        with database.begin() as connection:
            record_processes(connection, [SeenProcess("small-0", role="small", model=model, seen_at=datetime.now(UTC))])

    assert note() is None
    beat(f"embedded/small@{min(DIGESTS)}")
    assert note() == RUNNING
    beat("embedded/small@00000000")
    assert note() is None


def test_without_a_schema_the_service_is_unavailable_and_refuses_submissions(postgres_server: str) -> None:
    with scratch_database(postgres_server) as url, closing(Database(url)) as database:
        with database.session() as session:
            session.execute(text("DROP SCHEMA public CASCADE"))
            session.execute(text("CREATE SCHEMA public"))
        api = TestClient(create_app(SETTINGS, database), raise_server_exceptions=False)
        assert api.get("/health/ready").status_code == 503
        assert REVISION in api.get("/health/ready").text
        is_refusal(api.post("/v1/problems", json=QUESTION), 503, "schema_outdated")


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_health_ignores_parameters_that_a_load_balancer_adds(api: TestClient, path: str) -> None:
    assert api.get(f"{path}?probe=1&probe=2").status_code == 200


def test_without_a_database_the_process_lives_and_reports_every_part_down(dead_api: TestClient) -> None:
    assert dead_api.get("/health/live").status_code == 200
    response = dead_api.get("/health/ready")
    assert response.status_code == 503
    assert response.json()["status"] == "unavailable"
    names = ["database", "schema", "orchestrator", "broker", "small", "large", "prm"]
    assert [part["name"] for part in response.json()["parts"]] == names
    assert response.json()["down"] == names
    assert dead_api.get("/v1/policies").status_code == 200


def test_while_all_connections_are_in_use_readiness_has_its_own_body(
    dead_api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def session(_database: Database) -> None:
        raise PoolTimeout

    monkeypatch.setattr(Database, "session", session)
    response = dead_api.get("/health/ready")
    assert (response.status_code, response.json()["status"]) == (503, "unavailable")
    assert response.json()["parts"][0]["detail"] == "All connections to the database are in use."
