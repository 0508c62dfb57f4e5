"""The errors of these routes in the OpenAPI description."""

from __future__ import annotations

from typing import Any, Final

from services.api.openai.errors import ErrorResponse

_DESCRIPTIONS: Final = {
    400: "The body is not one JSON object in UTF-8, or a parameter is wrong.",
    404: "There is no such model.",
    408: "The body did not arrive in time.",
    409: "The idempotency key belongs to another request, or the problem was cancelled.",
    413: "The body is too large.",
    415: "The content type is not JSON in UTF-8, or the body is compressed.",
    500: "The service failed, or the problem did.",
    503: "The service cannot answer now; try again after `Retry-After` seconds.",
    504: "The deadline that the request set has passed.",
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of an endpoint.

    Args:
        statuses: Those that not every endpoint has.
    """
    listed: dict[int | str, str] = {each: _DESCRIPTIONS[each] for each in sorted({400, *statuses, 500})}
    listed["4XX"] = "Any other refusal."  # The framework would otherwise add one in another form.
    return {status: {"model": ErrorResponse, "description": text} for status, text in listed.items()}
