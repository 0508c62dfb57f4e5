"""docs/glossary.md explains every public term: values, ledger columns, reasons, codes, messages, fields of the API."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

from services.api.app import create_app
from services.api.openai.errors import CODES as OPENAI_CODES
from services.api.schemas.values import ERROR_CODES, FAILURE_CODES, REASONS
from shared import domain, messages
from shared.domain.drafts import Finish
from shared.domain.ledger import Ledger
from shared.domain.shadows import Skip
from shared.domain.status import Status, StopReason
from shared.domain.verdict import Verdict
from shared.policies.registry import POLICIES
from shared.settings import Settings
from shared.store.database import Database

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "glossary.md").read_text()
TERMS = frozenset(re.findall(r"`([^`\n]+)`", PAGE))

CODES_IN = ("services", "shared", "migrations", "stack")
"""Packages whose errors a user or an operator meets."""

GENERIC_FIELDS = frozenset({"items", "links", "title", "type"})
"""Fields of the API that need no row: their description in the OpenAPI document is enough."""


def missing(names: Iterator[str] | set[str]) -> list[str]:
    return sorted(set(names) - TERMS)


def domain_members() -> Iterator[type]:
    for info in pkgutil.iter_modules(domain.__path__, "shared.domain."):
        module = importlib.import_module(info.name)
        for _, member in inspect.getmembers(module, inspect.isclass):
            if member.__module__ == info.name:
                yield member


@cache
def trees(*folders: str) -> list[ast.Module]:
    return [ast.parse(path.read_text()) for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def constants(node: ast.AST) -> Iterator[str]:
    """Find the strings that an expression may stand for."""
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def reasons() -> set[str]:
    """Find the reasons of all `Decision(...)` in the machine and the policies."""
    found = set[str]()
    for tree in trees("shared/machine", "shared/policies"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Decision":
                for keyword in node.keywords:
                    if keyword.arg == "reason":
                        values = keyword.value
                        branches = [values.body, values.orelse] if isinstance(values, ast.IfExp) else [values]
                        found.update(text for branch in branches for text in constants(branch))
    return found


def codes() -> set[str]:
    """Find the codes of errors: attributes and constants of that name, and those that the API writes."""
    found = set(OPENAI_CODES)
    for tree in trees(*CODES_IN):
        for node in ast.walk(tree):
            match node:
                case ast.ClassDef():
                    found.update(code for each in node.body if _names_code(each) for code in constants(_value(each)))
                case ast.Assign(
                    targets=[ast.Name(id="CONTEXT_FULL" | "CRASHES_WORKERS" | "COMMAND_BURIED")], value=value
                ):
                    found.update(constants(value))
                case ast.keyword(arg="code", value=ast.Constant(value=str(code))):
                    found.add(code)
    [handlers] = [tree for tree in trees("services/api") if "problem+json" in ast.unparse(tree)]
    for node in ast.walk(handlers):
        match node:
            case ast.Call(args=[_, ast.Attribute(value=ast.Name(id="HTTPStatus")), ast.Constant(value=str(code)), *_]):
                found.add(code)
            case ast.Tuple(elts=[ast.Constant(value=str(code)), ast.Constant()]):
                found.add(code)
    return {code for code in found if re.fullmatch("[a-z_]+", code)}


def _names_code(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign | ast.AnnAssign) and ast.unparse(_target(node)) == "code"


def _target(node: ast.Assign | ast.AnnAssign) -> ast.expr:
    return node.targets[0] if isinstance(node, ast.Assign) else node.target


def _value(node: ast.stmt) -> ast.AST:
    assert isinstance(node, ast.Assign | ast.AnnAssign)
    return node.value or node


def schemas() -> dict[str, Any]:
    database = Database("postgresql://nobody@127.0.0.1:9/none")  # never connected
    try:
        found: dict[str, Any] = create_app(Settings(), database).openapi()["components"]["schemas"]
    finally:
        database.close()
    return found


def test_every_value_of_the_domain_is_explained() -> None:
    values = {str(value) for each in domain_members() if issubclass(each, StrEnum) for value in each}
    assert {"large", "escalate", "size_limit", "unverified", "expired", "rule"} <= values
    assert missing(values) == []


def explained(title: str) -> set[str]:
    """Return the values of which a section has a row."""
    [section] = re.findall(rf"^#+ {title}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (`[^|]+`) \|", section, re.MULTILINE)
    heads = {"code", "reason", "status", "stop_reason", "finish", "verdict", "skipped"}
    return {value for row in rows for value in re.findall(r"`(\w+)`", row)} - heads


@pytest.mark.parametrize(
    ("title", "values"),
    [
        ("Status", Status),
        ("Stop reason", StopReason),
        ("Finish", Finish),
        ("Verdict", Verdict),
        ("Skipped", Skip),
        ("Reasons", REASONS),
        ("Failures of problems", FAILURE_CODES),
        ("Errors of the API", ERROR_CODES),
        ("Errors in OpenAI's form", OPENAI_CODES),
    ],
)
def test_a_section_explains_the_values_that_the_api_describes_and_no_other(title: str, values: Iterable[str]) -> None:
    assert explained(title) == {str(value) for value in values}


def test_the_api_lists_the_values_that_later_versions_may_add_to() -> None:
    properties = {name: schema.get("properties", {}) for name, schema in schemas().items()}
    assert properties["Decision"]["reason"]["examples"] == [*REASONS]
    assert properties["Failure"]["code"]["examples"] == [*FAILURE_CODES]
    assert properties["ProblemDetails"]["code"]["examples"] == [*ERROR_CODES]


def test_every_column_of_the_ledger_is_explained() -> None:
    assert missing({field.name for field in dataclasses.fields(Ledger)}) == []


def test_every_reason_of_a_decision_is_explained_and_no_other() -> None:
    found = reasons()
    assert {"score_below_threshold", "score_at_least_threshold", "model_ended"} <= found
    [section] = re.findall(r"### Reasons\n(.*?)\n#", PAGE, re.DOTALL)
    assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == found


def test_every_code_is_explained_and_no_other() -> None:
    found = codes()
    assert {"attempts_exhausted", "unreadable", "input_too_long", "body_too_large", "malformed_json"} <= found
    section = PAGE.partition("## Failure and error codes\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+`) \|", section, re.MULTILINE)
    explained = {code for row in rows for code in re.findall(r"`(\w+)`", row)} - {"code"}
    assert sorted(found - explained) == []
    assert sorted(explained - found) == []


def test_every_message_and_every_policy_is_explained() -> None:
    kinds = {kind.__name__ for kind in get_args(messages.Message)}
    assert "GenerateSteps" in kinds
    assert missing(kinds | set(POLICIES)) == []


def test_every_schema_and_every_field_of_the_api_has_a_description() -> None:
    found = schemas()
    assert {"Problem", "Ledger", "Decision"} <= set(found)
    bare = [name for name, schema in found.items() if not schema.get("description")]
    bare += [
        f"{name}.{field}"
        for name, schema in found.items()
        for field, described in schema.get("properties", {}).items()
        if not described.get("description") and "$ref" not in described
    ]
    assert bare == []


def test_every_field_of_the_api_is_explained() -> None:
    fields = {field for schema in schemas().values() for field in schema.get("properties", {})}
    assert {"compared_with", "accepted_step", "deadline_s", "next_cursor"} <= fields
    assert missing(fields - GENERIC_FIELDS) == []


def test_every_generic_field_is_a_field_of_the_api_without_a_row() -> None:
    fields = {field for schema in schemas().values() for field in schema.get("properties", {})}
    assert sorted(GENERIC_FIELDS - fields) == []
    assert sorted(GENERIC_FIELDS & TERMS) == []
