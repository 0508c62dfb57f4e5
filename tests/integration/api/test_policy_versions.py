"""Versions of fitted policies: registered, listed, chosen at submission, made default, retired."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError
from starlette.testclient import TestClient

from shared.domain.artefacts import EncodedArtefact, ModelIds
from shared.policies.artefact import Artefact
from shared.store import policy_versions
from shared.store.database import Database
from shared.store.process_table import Process
from stack import policies
from stack.policies import COMMAND
from tests.integration.api.calls import QUESTION, is_refusal, submit

pytestmark = pytest.mark.servers

POLICY = "pomdp"


def make(prm: str, **different: Any) -> EncodedArtefact:
    return make_artefact(prm, **different).encoded


def make_artefact(
    prm: str, *, number: float = 0.0, policy: str = POLICY, command: str = "trim policies fit pomdp"
) -> Artefact:
    """Make an artefact that differs from others in one number."""
    return Artefact.make(
        {"x": np.array([number])},
        policy=policy,
        models=ModelIds(small="small@1", large="large@1", prm=prm),
        data={"problems": 500},
        settings={"seed": 1},
        metrics={"apgr": 0.9},
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
        command=command,
    )


def register(database: Database, artefact: EncodedArtefact) -> int:
    with database.session() as session:
        return policy_versions.register(session, artefact).version


def beat(database: Database, *prms: str, ago_s: float = 0.0, small: str | None = None) -> None:
    """Have the workers of some models, and of no others, send a heartbeat, each a second before the next."""
    now = datetime.now(UTC) - timedelta(seconds=ago_s)
    models = ([("small", small)] if small else []) + [("prm", prm) for prm in prms]
    with database.session() as session:
        session.execute(text("DELETE FROM processes"))
        for place, (role, model) in enumerate(reversed(models)):
            seen_at = now - timedelta(seconds=place)
            session.execute(insert(Process).values(name=f"{role} {model}", role=role, model=model, seen_at=seen_at))


@pytest.fixture(autouse=True)
def empty(database: Database) -> None:
    with database.session() as session:
        session.execute(text("ALTER TABLE policy_versions DISABLE TRIGGER USER"))
        session.execute(text("DELETE FROM policy_versions"))
        session.execute(text("ALTER TABLE policy_versions ENABLE TRIGGER USER"))
    beat(database)


def chosen(api: TestClient, **policy: Any) -> int | None:
    version: int | None = submit(api, policy={"name": POLICY, **policy})["policy"]["version"]
    if not policy:
        assert api.get(f"/v1/policies/{POLICY}/default").json()["version"] == version
    return version


def test_an_artefact_gets_the_next_number_of_its_policy_once(database: Database) -> None:
    first, second = make("prm@1", number=1), make("prm@1", number=2)
    assert [register(database, each) for each in (first, second, first)] == [1, 2, 1]
    assert register(database, make("prm@1", policy="aggregate")) == 1


def test_a_registered_artefact_is_read_as_it_was(database: Database) -> None:
    made = make("prm@1", number=7)
    register(database, made)
    with database.session() as session:
        read = policy_versions.read_artefact(session, POLICY, 1)
        assert policy_versions.read_artefact(session, POLICY, 2) is None
    assert read is not None
    assert replace(read, card=made.card) == made
    assert Artefact.read(read.card, read.arrays).digest == made.digest


@pytest.mark.parametrize(
    "statement", ["UPDATE policy_versions SET arrays = ''", "DELETE FROM policy_versions", "TRUNCATE policy_versions"]
)
def test_a_version_never_changes(database: Database, statement: str) -> None:
    register(database, make("prm@1"))
    with pytest.raises(DBAPIError) as caught, database.session() as session:
        session.execute(text(statement))
    assert isinstance(caught.value.orig, psycopg.errors.RestrictViolation)


def test_versions_are_listed_newest_first_and_shown(api: TestClient, database: Database) -> None:
    for number in range(3):
        register(database, make("prm@1", number=number))
    page = api.get(f"/v1/policies/{POLICY}/versions?limit=2").json()
    rest = api.get(f"/v1/policies/{POLICY}/versions?limit=2&cursor={page['next_cursor']}").json()
    assert [each["version"] for each in page["items"] + rest["items"]] == [3, 2, 1]
    assert rest["next_cursor"] is None
    shown = api.get(f"/v1/policies/{POLICY}/versions/1").json()
    assert shown == rest["items"][0]
    assert shown["models"] == {"small": "small@1", "large": "large@1", "prm": "prm@1"}
    assert (shown["is_default"], shown["retired_at"]) == (True, None)
    assert shown["card"]["command"] == "trim policies fit pomdp"


def test_an_unknown_policy_or_version_is_not_found(api: TestClient) -> None:
    is_refusal(api.get(f"/v1/policies/{POLICY}/versions/1"), 404, "not_found")
    is_refusal(api.post(f"/v1/policies/{POLICY}/versions/1/default"), 404, "not_found")
    is_refusal(api.post(f"/v1/policies/{POLICY}/versions/1/retire"), 404, "not_found")
    is_refusal(api.get("/v1/policies/dice/versions"), 404, "not_found")
    for name in (POLICY, "threshold", "dice"):
        is_refusal(api.get(f"/v1/policies/{name}/default"), 404, "not_found")
    is_refusal(api.get(f"/v1/policies/{POLICY}/versions/{2**31}"), 422, "invalid_request")
    assert api.get(f"/v1/policies/{POLICY}/versions").json() == {"items": [], "next_cursor": None}


def test_a_submission_gets_the_version_that_it_names_or_the_default_for_the_running_models(
    api: TestClient, database: Database
) -> None:
    register(database, make("prm@1", number=1))
    register(database, make("prm@1", number=2))
    assert chosen(api) == 1, "no PRM is running, and there is one default"
    register(database, make("lite@1"))
    beat(database, "lite@1")
    assert chosen(api) == 3
    beat(database, "prm@1")
    assert (chosen(api), chosen(api, version=2)) == (1, 2)
    beat(database, "prm@1", small="small@1")
    assert chosen(api) == 1


def test_an_outage_of_the_workers_refuses_no_submission(api: TestClient, database: Database) -> None:
    for prm in ("prm@1", "lite@1"):
        register(database, make(prm))
        beat(database, "other@1", "lite@1", "prm@1", ago_s=3600, small="small@1")
    assert chosen(api) == 1, "the latest PRM"
    beat(database)
    response = api.post("/v1/problems", json=QUESTION | {"policy": {"name": POLICY}})
    assert "no prm worker" in is_refusal(response, 503, "running_models_unknown")["detail"]
    assert response.headers["retry-after"]
    assert chosen(api, version=2) == 2


@pytest.mark.parametrize(
    ("running", "small", "said"),
    [
        (("prm@1", "lite@1"), None, "more than one default version for the running models (lite@1, prm@1)"),
        (("other@1",), None, "no default version for the running models (other@1)"),
        (("prm@1",), "small@2", "no default version for the running models (prm@1, small@2)"),
    ],
)
def test_a_submission_without_a_version_is_refused_where_nothing_chooses_one(
    api: TestClient, database: Database, running: tuple[str, ...], small: str | None, said: str
) -> None:
    register(database, make("prm@1"))
    register(database, make("lite@1"))
    beat(database, *running, small=small)
    response = api.post("/v1/problems", json=QUESTION | {"policy": {"name": POLICY}})
    assert said in is_refusal(response, 422, "no_default_policy_version")["detail"]


def test_an_unknown_or_retired_version_is_refused(api: TestClient, database: Database) -> None:
    register(database, make("prm@1"))
    register(database, make("prm@1", number=2))
    retired = api.post(f"/v1/policies/{POLICY}/versions/1/retire").json()
    assert api.post(f"/v1/policies/{POLICY}/versions/1/retire").json() == retired
    assert (retired["is_default"], retired["retired_at"] is None) == (False, False)
    for version, code in ((1, "policy_version_retired"), (9, "unknown_policy_version")):
        policy = {"name": POLICY, "version": version}
        is_refusal(api.post("/v1/problems", json=QUESTION | {"policy": policy}), 422, code)
    is_refusal(api.post("/v1/problems", json=QUESTION | {"policy": {"name": POLICY}}), 422, "no_default_policy_version")
    is_refusal(api.post(f"/v1/policies/{POLICY}/versions/1/default"), 422, "policy_version_retired")


def test_another_version_becomes_the_default_in_place_of_the_present_one(api: TestClient, database: Database) -> None:
    for number in range(2):
        register(database, make("prm@1", number=number))
    register(database, make("lite@1"))
    assert api.post(f"/v1/policies/{POLICY}/versions/2/default").json()["is_default"]
    assert api.post(f"/v1/policies/{POLICY}/versions/2/default").json()["is_default"]
    listed = api.get(f"/v1/policies/{POLICY}/versions").json()["items"]
    assert [(each["version"], each["is_default"]) for each in listed] == [(3, True), (2, True), (1, False)]


def defaults(api: TestClient) -> list[int]:
    return [each["version"] for each in api.get(f"/v1/policies/{POLICY}/versions?is_default=true").json()["items"]]


def test_a_new_bundled_version_replaces_an_earlier_bundled_default_but_no_choice_of_the_user(
    api: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = [make_artefact(prm, number=number, command=COMMAND) for number in range(3) for prm in ("prm@1", "lite@1")]

    def start(*numbers: int) -> list[int]:
        monkeypatch.setattr(policies, "read_artefacts", lambda: [bundled[each] for each in numbers])
        policies.register_bundled(database)
        return defaults(api)

    assert start(0, 1) == [2, 1]
    assert start(2, 3) == [4, 3]
    api.post(f"/v1/policies/{POLICY}/versions/1/default")
    assert start(2, 3) == [4, 1], "the user chose an earlier one of the versions that there were"
    fitted = register(database, make("prm@1", number=9))
    assert defaults(api) == [4, 1]
    api.post(f"/v1/policies/{POLICY}/versions/{fitted}/default")
    assert start(4, 5) == [7, fitted]


def test_a_policy_without_versions_takes_none(api: TestClient) -> None:
    response = api.post("/v1/problems", json=QUESTION | {"policy": {"name": "threshold", "version": 1}})
    assert "not fitted" in is_refusal(response, 422, "invalid_request")["detail"]


def test_a_retry_returns_the_first_result_although_the_version_was_retired_meanwhile(
    api: TestClient, database: Database
) -> None:
    register(database, make("prm@1"))
    send = {"json": QUESTION | {"policy": {"name": POLICY}}, "headers": {"Idempotency-Key": "once"}}
    first = api.post("/v1/problems", **send)
    assert first.status_code == 201
    api.post(f"/v1/policies/{POLICY}/versions/1/retire")
    again = api.post("/v1/problems", **send)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])


def test_all_problems_of_a_batch_get_one_version(api: TestClient, database: Database) -> None:
    register(database, make("prm@1"))
    body = {"problems": [QUESTION] * 3, "defaults": {"policy": {"name": POLICY}}}
    batch = api.post("/v1/batches", json=body).json()
    shown = api.get(batch["links"]["problems"]).json()["items"]
    assert [each["policy"]["version"] for each in shown] == [1, 1, 1]
