"""Responses as the OpenAPI description has them: every response in the tests of the API is checked against it."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import httpx2
from jsonschema import Draft202012Validator

from services.api.app import create_app
from shared.store.database import Database
from tests.integration.api.calls import SETTINGS

DESCRIPTION: dict[str, Any] = create_app(SETTINGS, Database("postgresql://127.0.0.1:1/x")).openapi()

OPERATIONS: dict[str, dict[str, Any]] = {
    f"{method.upper()} {path}": operation
    for path, methods in DESCRIPTION["paths"].items()
    for method, operation in methods.items()
}
"""Operations by method and path."""


def operation_of(method: str, path: str) -> str | None:
    """Find the operation that a request is for; those on fixed paths come first, as in the router."""
    for name in sorted(OPERATIONS, key=lambda each: each.count("{")):
        wanted, template = name.split(" ")
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template))
        if wanted == method and re.fullmatch(pattern, path):
            return name
    return None


def check(response: httpx2.Response) -> None:
    """Check the status, the media type and the body of a response to a described operation."""
    name = operation_of(response.request.method, response.request.url.path)
    if name is None:
        return
    response.read()
    status, media_type = str(response.status_code), response.headers.get("content-type", "").partition(";")[0]
    described = OPERATIONS[name]["responses"]
    assert status in described, f"{name} does not describe status {status}"
    if not media_type:
        assert "content" not in described[status], f"{name} describes a body for status {status}"
        return
    assert media_type in described[status]["content"], f"{name} does not describe {media_type} for status {status}"
    if media_type != "text/event-stream" and not media_type.endswith("json"):
        return
    body = response.text if media_type == "text/event-stream" else response.json()
    first = next(_validator(name, status, media_type).iter_errors(body), None)
    assert first is None, f"{name}, status {status}: {first}"


@cache
def _validator(name: str, status: str, media_type: str) -> Draft202012Validator:
    schema = OPERATIONS[name]["responses"][status]["content"][media_type]["schema"]
    return Draft202012Validator({**schema, "components": DESCRIPTION["components"]})
