"""Methods: OPTIONS and `allow` name all of a path, and HEAD works wherever GET does."""

from __future__ import annotations

from uuid import UUID

import pytest

from services.api.app import create_app
from services.api.openai.errors import has_openai_form
from shared.observe import metrics
from shared.store.database import Database
from tests.integration.api.calls import SETTINGS, is_refusal
from tests.integration.api.conftest import checked_client
from tests.integration.api.described import DESCRIPTION

API = checked_client(create_app(SETTINGS, Database("postgresql://127.0.0.1:1/x")))
"""Without a database: whether a method exists does not depend on one."""

PATHS = {path: {method.upper() for method in methods} for path, methods in DESCRIPTION["paths"].items()}
PATHS["/openapi.json"] = {"GET"}
VALUES = {
    **dict.fromkeys(("problem_id", "batch_id", "key_id", "tenant_id"), UUID(int=1)), "name": "pomdp", "version": 1,
    "model": "trim",
}  # fmt: skip


def listed(methods: set[str]) -> str:
    return ", ".join(sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())))


@pytest.mark.parametrize("path", PATHS)
def test_options_and_allow_name_every_method_of_a_path(path: str) -> None:
    named = listed(PATHS[path])
    options = API.options(path.format(**VALUES))
    assert (options.status_code, options.headers["allow"], options.content) == (204, named, b"")
    for method in {"DELETE", "PATCH", "PUT", "TRACE", "BREW"} - PATHS[path]:
        refused = API.request(method, path.format(**VALUES))
        if has_openai_form({"path": path}):
            assert (refused.status_code, refused.json()["error"]["code"]) == (405, "method_not_allowed")
        else:
            is_refusal(refused, 405, "method_not_allowed")
        assert refused.headers["allow"] == named
    if "GET" not in PATHS[path]:
        head = API.head(path.format(**VALUES))
        assert (head.status_code, head.headers["allow"]) == (405, named)


@pytest.mark.parametrize("path", [path for path, methods in PATHS.items() if "GET" in methods])
def test_head_has_the_status_and_the_headers_of_get_and_no_body(path: str) -> None:
    named = {"headers": {"X-Request-ID": "same"}}
    got, head = (API.request(method, path.format(**VALUES), **named) for method in ("GET", "HEAD"))
    assert (head.status_code, head.headers) == (got.status_code, got.headers)
    assert (got.content != b"", head.content) == (True, b"")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
def test_an_unknown_path_has_no_methods(method: str) -> None:
    response = API.request(method, "/v1/nowhere")
    assert response.status_code == 404
    assert "allow" not in response.headers


def test_a_request_with_head_is_counted_as_such_under_its_route() -> None:
    counter = metrics.HTTP_REQUESTS.labels("HEAD", "/v1/policies", 200)
    before = counter._value.get()
    API.head("/v1/policies")
    assert counter._value.get() == before + 1
