"""Errors as RFC 9457 problem details, all made in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from psycopg.errors import UndefinedColumn, UndefinedTable
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from shared.errors import PermanentError, RetryableError, TrimError
from shared.log import get_logger
from shared.store.schema import SchemaOutdated

RETRY_AFTER_S = 5
MAX_FIELD_CHARS = 200
"""Names of unknown fields are the sender's own text: they are cut before they go back."""
MAX_LISTED = 20
"""Most wrong fields that one answer lists."""

_MEDIA_TYPE = "application/problem+json"

_STATUS = {
    "malformed_body": HTTPStatus.BAD_REQUEST,
    "unsupported_media_type": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "not_found": HTTPStatus.NOT_FOUND,
    "idempotency_conflict": HTTPStatus.CONFLICT,
}
"""HTTP status of an error's code; others are 422 (change the request) or 503 (try again)."""

_log = get_logger(__name__)


class NotFound(PermanentError):
    """There is nothing with this id."""

    code = "not_found"


class MalformedBody(PermanentError):
    """The body cannot be read; send one JSON object in UTF-8."""

    code = "malformed_body"


class UnsupportedMediaType(PermanentError):
    """The body is not marked as JSON in UTF-8; send it with the header `content-type: application/json`."""

    code = "unsupported_media_type"


class InvalidSubmission(PermanentError):
    """A field of the submission is wrong."""

    code = "invalid_request"

    def __init__(self, field: str, error: PermanentError | str) -> None:
        super().__init__(str(error))
        self.field = field
        if isinstance(error, PermanentError):
            self.code = error.code


class WrongField(BaseModel):
    """A field of the request that is wrong."""

    field: str = Field(description="Where it is, such as `body.limits.max_steps`.")
    message: str = Field(description="What is wrong with it.")


class ProblemDetails(BaseModel):
    """What went wrong (RFC 9457, application/problem+json)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Unprocessable Entity",
                    "status": 422,
                    "detail": "body.limits.max_steps: Input should be less than or equal to 200.",
                    "code": "invalid_request",
                    "request_id": "6f0c1b0e5d0a4c0f9a7e0d6c2b1a3f4e",
                    "errors": [
                        {"field": "body.limits.max_steps", "message": "Input should be less than or equal to 200"}
                    ],
                }
            ]
        }
    )

    type: str = "about:blank"
    title: str = Field(description="The HTTP status in words.")
    status: int
    detail: str = Field(description="One sentence that says what to do.")
    code: str = Field(description="Short, stable name of the error.")
    request_id: str = Field(description="Names the request in the logs.")
    errors: list[WrongField] = Field(default_factory=list, description="The fields that are wrong, if that is it.")


RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ProblemDetails, "description": "The request cannot be carried out as it stands."},
    "5XX": {"model": ProblemDetails, "description": "The service cannot answer now."},
}
"""What OpenAPI says of errors."""


def install(app: FastAPI) -> None:
    """Answer every error of an app with problem details."""
    app.exception_handler(TrimError)(_on_trim_error)
    app.exception_handler(RequestValidationError)(_on_invalid)
    app.exception_handler(HTTPException)(_on_http_error)
    app.exception_handler(ProgrammingError)(_on_programming_error)
    app.exception_handler(PoolTimeout)(_on_pool_timeout)
    app.exception_handler(Exception)(_on_crash)


def set_media_type(answer: dict[str, Any]) -> None:
    """Correct OpenAPI's description of an answer if it is an error."""
    content = answer.get("content", {})
    described = content.get("application/json", {}).get("schema", {})
    if described.get("$ref", "").endswith(f"/{ProblemDetails.__name__}"):
        content[_MEDIA_TYPE] = content.pop("application/json")


async def _on_trim_error(request: Request, error: TrimError) -> JSONResponse:
    default = HTTPStatus.SERVICE_UNAVAILABLE if isinstance(error, RetryableError) else HTTPStatus.UNPROCESSABLE_ENTITY
    status = _STATUS.get(error.code, default)
    wrong = [WrongField(field=error.field, message=str(error))] if isinstance(error, InvalidSubmission) else []
    headers = {"Retry-After": str(RETRY_AFTER_S)} if isinstance(error, RetryableError) else None
    return _answer(request, status, error.code, str(error), errors=wrong, headers=headers)


async def _on_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    found = error.errors()
    wrong = [
        WrongField(field=".".join(str(part) for part in each["loc"])[:MAX_FIELD_CHARS], message=str(each["msg"])[:300])
        for each in found[:MAX_LISTED]
    ]
    if found[0]["type"] == "json_invalid":
        detail = "The body is not valid JSON; send one JSON object in UTF-8."
        return _answer(request, HTTPStatus.BAD_REQUEST, "malformed_json", detail)
    detail = f"{wrong[0].field}: {wrong[0].message}." + (f" {len(found) - 1} more are wrong." if found[1:] else "")
    return _answer(request, HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", detail, errors=wrong)


async def _on_http_error(request: Request, error: HTTPException) -> JSONResponse:
    status = HTTPStatus(error.status_code)
    code, detail = {
        HTTPStatus.NOT_FOUND: ("no_such_path", "There is nothing at this path; /openapi.json lists what there is."),
        HTTPStatus.METHOD_NOT_ALLOWED: ("method_not_allowed", "The path does not take this method."),
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
            "body_too_large",
            "The body is too large; submit fewer problems at a time (TRIM_MAX_BODY_BYTES is the limit).",
        ),
        HTTPStatus.BAD_REQUEST: (MalformedBody.code, str(MalformedBody())),
    }.get(status, (status.name.lower(), str(error.detail)))
    return _answer(request, status, code, detail, headers=error.headers)


async def _on_programming_error(request: Request, error: ProgrammingError) -> JSONResponse:
    if isinstance(error.orig, UndefinedTable | UndefinedColumn):
        return await _on_trim_error(request, SchemaOutdated())
    return await _on_crash(request, error)


async def _on_pool_timeout(request: Request, _error: PoolTimeout) -> JSONResponse:
    return await _on_trim_error(request, RetryableError("All connections to the database are in use; try again."))


async def _on_crash(request: Request, error: Exception) -> JSONResponse:
    _log.error("request_crashed", error=type(error).__name__, exc_info=error)
    detail = "The service failed; the log has more under this request_id."
    return _answer(request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal", detail)


def _answer(
    request: Request,
    status: HTTPStatus,
    code: str,
    detail: str,
    *,
    errors: Sequence[WrongField] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    request_id = request.scope.get("trim.request_id", "")
    body = ProblemDetails(
        title=status.phrase, status=status, detail=detail, code=code, request_id=request_id, errors=list(errors)
    )
    # A crash is answered outside the middleware that names requests, so the name is set here too.
    return JSONResponse(
        body.model_dump(),
        status_code=status,
        headers={**(headers or {}), "X-Request-ID": request_id},
        media_type=_MEDIA_TYPE,
    )
