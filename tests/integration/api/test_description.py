"""The OpenAPI description: every field is described, every choice is listed, every error is problem+json."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from starlette.testclient import TestClient

from services.api.app import create_app
from services.api.openai.errors import has_openai_form
from shared.domain.decisions import Action, DecidedBy
from shared.domain.drafts import Finish
from shared.domain.roles import Author, WorkerRole
from shared.domain.status import Status, StopReason
from shared.domain.verdict import Verdict
from shared.store.database import Database
from tests.integration.api import described
from tests.integration.api.calls import SETTINGS
from tests.integration.api.described import DESCRIPTION

SCHEMAS: dict[str, Any] = DESCRIPTION["components"]["schemas"]
FIELDS = [(schema, field) for schema, described in SCHEMAS.items() for field in described.get("properties", ())]
OPERATIONS = list(described.OPERATIONS.items())


def is_sentence(text: str) -> bool:
    return bool(re.fullmatch(r"[A-Z`].*[.]", text, re.DOTALL))


@pytest.mark.parametrize(("schema", "field"), FIELDS)
def test_every_field_has_a_description(schema: str, field: str) -> None:
    described = SCHEMAS[schema]["properties"][field]
    if set(described) == {"$ref"}:  # Pydantic omits a description that equals the one of the schema.
        described = SCHEMAS[described["$ref"].rpartition("/")[2]]
    assert is_sentence(described.get("description", "")), described


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_schema_has_a_description(schema: str) -> None:
    assert is_sentence(SCHEMAS[schema].get("description", ""))


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_every_operation_and_parameter_has_a_description(name: str, operation: dict[str, Any]) -> None:
    assert is_sentence(operation["description"])
    for parameter in operation.get("parameters", ()):
        assert is_sentence(parameter.get("description", "")), parameter["name"]


@pytest.mark.parametrize(
    ("schema", "field", "kind"),
    [
        ("Problem", "status", Status),
        ("Problem", "verdict", Verdict),
        ("Problem", "stop_reason", StopReason),
        ("Step", "author", Author),
        ("Step", "finish", Finish),
        ("Draft", "finish", Finish),
        ("Decision", "action", Action),
        ("Decision", "decided_by", DecidedBy),
        ("Part", "name", WorkerRole),
    ],
)
def test_a_field_with_fixed_values_lists_them(schema: str, field: str, kind: type[StrEnum]) -> None:
    assert f'"#/components/schemas/{kind.__name__}"' in json.dumps(SCHEMAS[schema]["properties"][field])
    assert SCHEMAS[kind.__name__]["enum"] == list(kind)


@pytest.mark.parametrize(("field", "kind"), [("statuses", Status), ("verdicts", Verdict)])
def test_the_counts_of_a_batch_list_their_keys(field: str, kind: type[StrEnum]) -> None:
    named = SCHEMAS["Batch"]["properties"][field]["propertyNames"]
    assert named == {"$ref": f"#/components/schemas/{kind.__name__}"} or named["enum"] == list(kind)


@pytest.mark.parametrize(("name", "operation"), [each for each in OPERATIONS if not each[0].endswith("/events")])
def test_every_listing_is_paged_by_cursor(name: str, operation: dict[str, Any]) -> None:
    parameters = {each["name"] for each in operation.get("parameters", ())}
    successes = [response for code, response in operation["responses"].items() if code.startswith("2")]
    schemas = [each["content"].get("application/json", {}).get("schema", {}) for each in successes]
    (schema,) = {each.get("$ref", "").rpartition("/")[2] for each in schemas}
    assert ("limit" in parameters) == ("cursor" in parameters) == schema.endswith("Page")
    if schema.endswith("Page"):
        assert list(SCHEMAS[schema]["properties"]) == ["items", "next_cursor"]
    assert "after" not in parameters


@pytest.mark.parametrize(("name", "operation"), [each for each in OPERATIONS if " /v1" in each[0]])
def test_every_error_is_problem_json_or_in_openais_form(name: str, operation: dict[str, Any]) -> None:
    is_openai = has_openai_form({"path": name.partition(" ")[2]})
    wrong, media_type = ("400", "application/json") if is_openai else ("422", "application/problem+json")
    refused = [response for code, response in operation["responses"].items() if code[0] in "45"]
    assert {wrong, "500"} <= set(operation["responses"]), "every endpoint has these"
    schema = {"$ref": f"#/components/schemas/{'ErrorResponse' if is_openai else 'ProblemDetails'}"}
    assert all(response["content"] == {media_type: {"schema": schema}} for response in refused)


def test_an_error_has_an_example() -> None:
    (example,) = SCHEMAS["ProblemDetails"]["examples"]
    assert set(example) == set(SCHEMAS["ProblemDetails"]["properties"])


def test_the_batch_request_describes_its_problems() -> None:
    assert SCHEMAS["BatchRequest"]["properties"]["problems"]["items"] == {"$ref": "#/components/schemas/ProblemRequest"}


def test_the_api_serves_its_description_and_no_page_with_foreign_scripts() -> None:
    api = TestClient(create_app(SETTINGS, Database("postgresql://127.0.0.1:1/x")))
    assert api.get("/openapi.json").json() == DESCRIPTION
    assert (api.get("/docs").status_code, api.get("/redoc").status_code) == (404, 404)


def test_the_description_is_valid() -> None:
    """Its schemas are valid, its references lead somewhere, and no two operations have the same id."""
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)
    referred = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(DESCRIPTION)))
    assert referred <= set(SCHEMAS)
    ids = [operation["operationId"] for _, operation in OPERATIONS]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("path", ["/v1/problems", "/v1/batches", "/v1/policies/{name}/versions"])
def test_what_is_created_once_is_described_for_a_repeated_request(path: str) -> None:
    responses = described.OPERATIONS[f"POST {path}"]["responses"]
    assert responses["200"]["content"] == responses["201"]["content"]


def test_the_unavailable_service_has_its_readiness_as_body() -> None:
    responses = described.OPERATIONS["GET /health/ready"]["responses"]
    assert responses["503"]["content"] == responses["200"]["content"]
