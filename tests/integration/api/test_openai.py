"""The OpenAI-compatible surface without models: what it lists, and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from starlette.testclient import TestClient

from services.api.openai.names import FITTED, PRESETS
from shared.store import policy_versions
from shared.store.database import Database
from tests.integration.api.calls import JSON, SETTINGS
from tests.unit.policies.pomdp_models import artefact_of, released_model

pytestmark = pytest.mark.servers

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "trim", "messages": [{"role": "user", "content": "What is 6 times 7?"}]}


def refusal(response: Any, status: int, code: str, param: str | None = None) -> str:
    """Check that a response is an error in OpenAI's form, and return its message."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert (error["code"], error["param"]) == (code, param), error
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    message: str = error["message"]
    assert message.endswith((".", "?"))
    return message


def test_models_that_always_exist_are_listed_and_any_other_threshold_can_be_read(api: TestClient) -> None:
    listed = api.get("/v1/models").json()
    assert (listed["object"], [each["id"] for each in listed["data"]]) == ("list", list(PRESETS))
    for each in listed["data"]:
        assert api.get(f"/v1/models/{each['id']}").json() == each
    unlisted = api.get("/v1/models/trim-threshold-0.123").json()
    assert unlisted["trim"] == {"name": "threshold", "parameters": {"threshold": 0.123}, "version": None}


def test_a_fitted_policy_is_a_model_while_it_has_a_default_for_the_running_models(
    api: TestClient, database: Database
) -> None:
    for policy in FITTED:
        message = refusal(api.get(f"/v1/models/trim-{policy}"), 404, "model_not_found", "model")
        assert "has no default version" in message
        refusal(api.post(CHAT, json=BODY | {"model": f"trim-{policy}"}), 404, "model_not_found", "model")
    with database.session() as session:
        policy_versions.register(session, artefact_of(released_model()).encoded)
    assert [each["id"] for each in api.get("/v1/models").json()["data"]] == [*PRESETS, "trim-pomdp"]
    assert api.get("/v1/models/trim-pomdp@1").json()["trim"]["version"] == 1
    refusal(api.get("/v1/models/trim-pomdp@2"), 404, "model_not_found", "model")
    with database.session() as session:
        policy_versions.retire(session, "pomdp", 1, now=datetime.now(UTC))
    assert "is retired" in refusal(api.get("/v1/models/trim-pomdp@1"), 404, "model_not_found", "model")
    assert [each["id"] for each in api.get("/v1/models").json()["data"]] == [*PRESETS]


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"model": "gpt-4o"}, 404, "model_not_found", "model"),
        ({"model": None}, 400, "invalid_value", "model"),
        ({"messages": []}, 400, "invalid_value", "messages"),
        ({"messages": "x"}, 400, "invalid_value", "messages"),
        ({"messages": [{"role": "user"}]}, 400, "invalid_value", "messages[0].content"),
        ({"messages": [{"role": "boss", "content": "x"}]}, 400, "unsupported_value", "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "unsupported_value",
            "messages[0].content",
        ),
        ({"messages": [{"role": "user", "content": "x" * 501}]}, 400, "invalid_value", "messages"),
        ({"n": 2}, 400, "unsupported_value", "n"),
        ({"tools": [{}]}, 400, "unsupported_value", "tools"),
        ({"temperature": 2.5}, 400, "invalid_value", "temperature"),
        ({"temperature": "0"}, 400, "invalid_value", "temperature"),
        ({"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, 400, "invalid_value", "stop"),
        ({"stop": ""}, 400, "invalid_value", "stop[0]"),
        ({"temprature": 1}, 400, "unknown_parameter", "temprature"),
        ({"trim": {"polcy": {}}}, 400, "unknown_parameter", "trim.polcy"),
        ({"trim": {"policy": {"name": "dice"}}}, 400, "unknown_policy", "trim.policy"),
        ({"trim": {"limits": {"max_steps": 0}}}, 400, "invalid_value", "trim.limits.max_steps"),
        ({"trim": {"policy": {"name": "pomdp", "version": 7}}}, 400, "unknown_policy_version", "trim.policy"),
        ({"stream": True, "n": 2}, 400, "unsupported_value", "n"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(
    api: TestClient, fields: dict[str, Any], status: int, code: str, param: str
) -> None:
    message = refusal(api.post(CHAT, json=BODY | fields), status, code, param)
    assert message.startswith(f"{param}: ") or code == "model_not_found"


def test_a_missing_parameter_is_named(api: TestClient) -> None:
    refusal(api.post(CHAT, json={"model": "trim"}), 400, "missing_required_parameter", "messages")


def test_an_unknown_parameter_is_answered_with_the_nearest_one(api: TestClient) -> None:
    assert "did you mean `temperature`?" in api.post(CHAT, json=BODY | {"temprature": 1}).json()["error"]["message"]


@pytest.mark.parametrize("body", [b"{", b"", b"[" * 50_000])
def test_a_body_that_is_no_json_is_refused(api: TestClient, body: bytes) -> None:
    response = api.post(CHAT, content=body, headers=JSON)
    refusal(response, 400, response.json()["error"]["code"])


def test_every_error_of_the_framework_has_openais_form(api: TestClient) -> None:
    refusal(api.post(CHAT, content=b"x" * (SETTINGS.max_body_bytes + 1), headers=JSON), 413, "body_too_large")
    refusal(api.post(CHAT, content=b"{}"), 415, "unsupported_media_type")
    refusal(api.get(CHAT), 405, "method_not_allowed")
    refusal(api.post("/v1/embeddings", json={}), 404, "no_such_path")
    refusal(api.get("/v1/models/a/b"), 404, "no_such_path")
    refusal(api.get("/v1/models?limit=3"), 400, "invalid_value", "query.limit")
    assert api.get("/v1/modelsx").headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("stream", [False, True])
def test_without_a_database_the_client_is_asked_to_retry(dead_api: TestClient, stream: bool) -> None:
    for response in (dead_api.post(CHAT, json=BODY | {"stream": stream}), dead_api.get("/v1/models")):
        refusal(response, 503, "database_unavailable")
        assert int(response.headers["retry-after"]) > 0


def test_a_crash_has_openais_form(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.api.openai.chat.check_chat", lambda *_: 1 / 0)
    assert "request_id" in refusal(api.post(CHAT, json=BODY), 500, "internal")
