"""Artefacts over REST: exported as registered, imported once, refused where no policy can decide with them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from services.api.app import create_app
from shared.domain.decisions import Action, Decision
from shared.policies.artefact import Artefact
from shared.policies.pomdp.policy import Pomdp
from shared.settings import Settings
from shared.store.database import Database
from tests.integration.api.calls import SETTINGS, is_refusal
from tests.unit.policies.pomdp_models import artefact_of, make_model, released_model

pytestmark = pytest.mark.servers

PATH = "/v1/policies/pomdp/versions"


@pytest.fixture(autouse=True)
def empty(database: Database) -> None:
    with database.session() as session:
        session.execute(text("ALTER TABLE policy_versions DISABLE TRIGGER USER"))
        session.execute(text("DELETE FROM policy_versions"))
        session.execute(text("ALTER TABLE policy_versions ENABLE TRIGGER USER"))


def body_of(artefact: Artefact, **card: Any) -> dict[str, Any]:
    """Return an artefact as the API takes it, with other fields of the card in place of some."""
    encoded, arrays = artefact.encode()
    return {"card": json.loads(encoded) | card, "arrays": base64.b64encode(arrays).decode()}


RIGHT = body_of(artefact_of(released_model()))
LONG_IDS = {"small": "s" * 20_000, "large": "l", "prm": "p"}


def test_an_artefact_is_registered_once_and_exported_as_it_was(api: TestClient) -> None:
    first, again = api.post(PATH, json=RIGHT), api.post(PATH, json=RIGHT)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.headers["location"] == again.headers["location"] == f"{PATH}/1"
    assert first.json() == again.json() == api.get(f"{PATH}/1").json()
    assert first.json()["is_default"] is True
    assert api.get(f"{PATH}/1/artefact").json() == RIGHT
    assert api.post(PATH, json=api.get(f"{PATH}/1/artefact").json()).status_code == 200
    repeated = body_of(artefact_of(released_model()), created_at="2027-01-01T00:00:00Z")
    assert api.post(PATH, json=repeated).json() == first.json(), "the same fit at another time"


def test_a_card_with_numbers_that_the_database_writes_otherwise_keeps_its_digest(api: TestClient) -> None:
    body = body_of(artefact_of(released_model()), data={"share": -0.0, "tokens": 1e23}, metrics={"tokens": 1e22})
    assert api.post(PATH, json=body).status_code == 201
    exported = api.get(f"{PATH}/1/artefact").json()
    assert [api.post(PATH, json=each).status_code for each in (exported, body)] == [200, 200]


def test_arrays_in_another_encoding_are_kept_as_they_came(api: TestClient) -> None:
    """The digest of the card is that of the file; numpy's own files differ from ours."""
    file = io.BytesIO()
    np.savez_compressed(file, **make_model().arrays())
    body = body_of(artefact_of(make_model()), arrays_sha256=hashlib.sha256(file.getvalue()).hexdigest())
    body["arrays"] = base64.b64encode(file.getvalue()).decode()
    assert api.post(PATH, json=body).status_code == 201
    exported = api.get(f"{PATH}/1/artefact").json()
    assert exported == body
    assert Artefact.read(json.dumps(exported["card"]), base64.b64decode(exported["arrays"])).card.policy == "pomdp"


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        (PATH, RIGHT | {"arrays": "AAAA"}, "not those of the card"),
        (PATH, RIGHT | {"card": {"policy": "pomdp"}}, "card cannot be read"),
        (PATH, body_of(artefact_of(released_model()), data={"from": "a\x00b"}), "NUL"),
        (PATH, body_of(artefact_of(released_model(), last=None)), "no array 'last'"),
        (PATH, body_of(artefact_of(released_model()), models=LONG_IDS), "models.small"),
        ("/v1/policies/aggregate/versions", RIGHT, "for the policy 'pomdp', not for 'aggregate'"),
        ("/v1/policies/threshold/versions", RIGHT, "no versions"),
    ],
)
def test_an_artefact_that_no_policy_can_decide_with_is_refused_and_nothing_is_stored(
    api: TestClient, path: str, body: dict[str, Any], said: str
) -> None:
    assert said in is_refusal(api.post(path, json=body), 422, "bad_artefact")["detail"]
    assert api.get(PATH).json()["items"] == []


@pytest.mark.parametrize(("numbers", "said"), [({"right": math.nan}, "not finite"), (None, "AttributeError")])
def test_an_artefact_with_which_the_policy_breaks_is_refused(
    api: TestClient, monkeypatch: pytest.MonkeyPatch, numbers: dict[str, float] | None, said: str
) -> None:
    broken = Decision(action=Action.ACCEPT, reason="broken", numbers=numbers)  # type: ignore[arg-type]
    monkeypatch.setattr(Pomdp, "decide", lambda _policy, _observation: broken if numbers else None)
    assert said in is_refusal(api.post(PATH, json=RIGHT), 422, "bad_artefact")["detail"]
    assert api.get(PATH).json()["items"] == []


def test_a_body_of_another_shape_names_the_field(api: TestClient) -> None:
    for body in ({"card": {}}, RIGHT | {"arrays": 7}, RIGHT | {"arrays": "A"}):
        assert "arrays" in is_refusal(api.post(PATH, json=body), 422, "invalid_request")["errors"][0]["field"]
    is_refusal(api.post(PATH, json=RIGHT | {"surprise": 1}), 422, "invalid_request")


def test_an_artefact_above_the_limit_of_bodies_is_refused(database: Database) -> None:
    settings = Settings(**SETTINGS.model_dump() | {"max_question_chars": 1, "max_body_bytes": 66_000})
    with TestClient(create_app(settings, database)) as api:
        is_refusal(api.post(PATH, json=RIGHT | {"arrays": "A" * 66_000}), 413, "body_too_large")


def test_an_unknown_policy_or_version_has_no_artefact(api: TestClient) -> None:
    is_refusal(api.get(f"{PATH}/1/artefact"), 404, "not_found")
    is_refusal(api.post("/v1/policies/dice/versions", json=RIGHT), 404, "not_found")


def test_the_defaults_are_listed_alone(api: TestClient) -> None:
    for model in (released_model(), make_model()):
        api.post(PATH, json=body_of(artefact_of(model)))
    assert [each["version"] for each in api.get(f"{PATH}?is_default=true").json()["items"]] == [1]
    assert [each["version"] for each in api.get(f"{PATH}?is_default=false").json()["items"]] == [2]
