"""Who may use each operation, in the OpenAPI description."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel

from services.api.access.callers import SCHEME, scope_needed
from services.api.errors import ProblemDetails, refusals
from services.api.openai.errors import ErrorResponse, has_openai_form

_REFUSALS: Final = (401, 403, 429)


def describe_access(schema: dict[str, Any], *, is_required: bool) -> None:
    """Add the keys, the scope of each operation, and the refusals of those that need one.

    Args:
        schema: The description; it is changed.
        is_required: Whether requests without a key are refused.
    """
    schema["components"]["securitySchemes"] = {
        SCHEME: {
            "type": "http",
            "scheme": "bearer",
            "description": "Key of the API, `trim_<prefix>_<secret>`. Each operation names the scope that it needs.",
        }
    }
    for path, operations in schema["paths"].items():
        model = ErrorResponse if has_openai_form({"path": path}) else ProblemDetails
        for method, operation in operations.items():
            needed = scope_needed(method.upper(), operation)
            if needed is None:
                continue
            with_key = {SCHEME: [needed.value]}
            operation["security"] = [with_key] if is_required else [with_key, {}]
            for status, described in refusals(*_REFUSALS, has_input=False).items():
                operation["responses"].setdefault(str(status), _as_response(described["description"], model))
            operation["responses"] = dict(sorted(operation["responses"].items()))


def _as_response(description: str, model: type[BaseModel]) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"description": description, "content": {"application/json": {"schema": reference}}}
