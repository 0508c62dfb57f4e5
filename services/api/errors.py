"""Error responses: RFC 9457 problem details, and OpenAI's form on the paths of its API."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, TypeVar, get_args

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from psycopg.errors import UndefinedColumn, UndefinedTable
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from services.api.openai import errors as openai
from services.api.schemas.values import ErrorCode
from shared.errors import PermanentError, RetryableError, TrimError, explain
from shared.log import get_logger
from shared.spelling import suggest
from shared.store.compatibility import SchemaOutdated

RETRY_AFTER_S = 5
"""Seconds after which a client may retry a request that failed for a passing reason."""

CLIENT_GONE = 499
"""Status in the metrics of a request whose client left before the response, as in nginx."""

MAX_FIELD_CHARS = 200
"""Maximum length of a field's name in a response; names of unknown fields come from the client."""
MAX_MESSAGE_CHARS = 300
"""Maximum length of the message about one field."""

MAX_LISTED = 20
"""Maximum number of wrong fields that a response lists."""

_MEDIA_TYPE = "application/problem+json"

_STATUS = {
    "malformed_body": HTTPStatus.BAD_REQUEST,
    "malformed_json": HTTPStatus.BAD_REQUEST,
    "unsupported_content_encoding": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "unsupported_media_type": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "unauthenticated": HTTPStatus.UNAUTHORIZED,
    "key_expired": HTTPStatus.UNAUTHORIZED,
    "key_revoked": HTTPStatus.UNAUTHORIZED,
    "scope_missing": HTTPStatus.FORBIDDEN,
    "default_tenant_only": HTTPStatus.FORBIDDEN,
    "not_found": HTTPStatus.NOT_FOUND,
    "idempotency_conflict": HTTPStatus.CONFLICT,
    "tenant_exists": HTTPStatus.CONFLICT,
    "key_ended": HTTPStatus.CONFLICT,
    "rate_limited": HTTPStatus.TOO_MANY_REQUESTS,
    "backlog_full": HTTPStatus.TOO_MANY_REQUESTS,
    "cursor_expired": HTTPStatus.GONE,
    "format_unavailable": HTTPStatus.NOT_IMPLEMENTED,
}
"""HTTP status by the error's code. Other permanent errors are 422, other retryable ones 503."""

_log = get_logger(__name__)

T = TypeVar("T")


class NotFound(PermanentError):
    """Nothing has this id."""

    code = "not_found"


class InvalidSubmission(PermanentError):
    """A field of the submission is wrong; the error names it."""

    code = "invalid_request"

    def __init__(self, field: str, error: PermanentError | str) -> None:
        super().__init__(f"{field}: {error}")
        self.field = field
        self.message = str(error)
        if isinstance(error, PermanentError):
            self.code = error.code


class WrongField(BaseModel):
    """A wrong field of a request."""

    field: str = Field(description="Place of the field, such as `body.limits.max_steps` or `line 3.question`.")
    line: int | None = Field(None, description="Number of the line, from 1; null unless the body is JSON Lines.")
    message: str = Field(description="Explanation in one sentence.")


class InvalidSubmissions(PermanentError):
    """Problems of the request are wrong; the errors name their fields."""

    code = "invalid_request"

    def __init__(self, wrong: Sequence[WrongField], *, rejected: int, received: int) -> None:
        sums = f"{rejected} of {received} problems are wrong, none was stored."
        super().__init__(f"{wrong[0].field}: {wrong[0].message} In all, {sums}")
        self.wrong = wrong[:MAX_LISTED]


class ProblemDetails(BaseModel):
    """Error response (RFC 9457, application/problem+json)."""

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
                        {
                            "field": "body.limits.max_steps",
                            "line": None,
                            "message": "Input should be less than or equal to 200.",
                        }
                    ],
                }
            ]
        }
    )

    type: str = Field("about:blank", description="Always `about:blank`; `code` identifies the error.")
    title: str = Field(description="HTTP status in words.")
    status: int = Field(description="HTTP status.")
    detail: str = Field(description="Explanation in one sentence, with the next step.")
    code: ErrorCode = Field(description="Short, stable name of the error.")
    request_id: str = Field(description="Id of the request in the logs.")
    errors: list[WrongField] = Field(default_factory=list, description="Wrong fields of the request, if any.")


_REFUSALS = {
    400: "The body is not one JSON object in UTF-8.",
    401: "The request has no valid key.",
    403: "The key lacks the scope that the request needs.",
    404: "Nothing has this id or name.",
    408: "The body did not arrive in time.",
    409: "Another request has the idempotency key or the name, or the key has ended.",
    410: "What the cursor leads to was deleted.",
    413: "The body is too large.",
    415: "The content type is not JSON in UTF-8, or the body is compressed.",
    422: "A parameter, a field of the body or a combination of them is wrong.",
    429: "The tenant has reached a limit; try again after `Retry-After` seconds.",
    500: "The service failed; its log has the details.",
    501: "The service lacks the library for this.",
    503: "The service cannot answer now; try again after `Retry-After` seconds.",
}
"""Statuses of errors, with what they mean."""

BODY_REFUSALS = (400, 408, 413, 415)
"""Statuses of errors that only an endpoint with a body has."""


def refusals(*statuses: int, has_input: bool = True) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of an endpoint in OpenAPI.

    Args:
        statuses: Those that not every endpoint has.
        has_input: Whether the endpoint looks at anything of the request, which then may be wrong.
    """
    listed = sorted({*statuses, 500, *([422] if has_input else [])})
    return {status: {"model": ProblemDetails, "description": _REFUSALS[status]} for status in listed}


def found(result: T | None) -> T:
    """Return the result of a query.

    Raises:
        NotFound: There is none.
    """
    if result is None:
        raise NotFound
    return result


def install(app: FastAPI) -> None:
    """Install handlers that turn every error into a response."""
    app.exception_handler(TrimError)(_on_trim_error)
    app.exception_handler(openai.OpenAIError)(_on_openai_error)
    app.exception_handler(RequestValidationError)(_on_invalid)
    app.exception_handler(HTTPException)(_on_http_error)
    app.exception_handler(ProgrammingError)(_on_programming_error)
    app.exception_handler(PoolTimeout)(_on_pool_timeout)
    app.exception_handler(ClientDisconnect)(_on_client_gone)
    app.exception_handler(Exception)(_on_crash)


def set_media_type(response: dict[str, Any]) -> None:
    """Correct the media type of a response in OpenAPI if it is an error."""
    content = response.get("content", {})
    for media_type, described in [*content.items()]:
        if described.get("schema", {}).get("$ref", "").endswith(f"/{ProblemDetails.__name__}"):
            content[_MEDIA_TYPE] = content.pop(media_type)


async def _on_trim_error(request: Request, error: TrimError) -> Response:
    default = HTTPStatus.SERVICE_UNAVAILABLE if isinstance(error, RetryableError) else HTTPStatus.UNPROCESSABLE_ENTITY
    status = _STATUS.get(error.code, default)
    wrong = [WrongField(field=error.field, message=error.message)] if isinstance(error, InvalidSubmission) else []
    if isinstance(error, InvalidSubmissions):
        wrong = [*error.wrong]
    headers = None
    if isinstance(error, RetryableError):
        headers = {"Retry-After": str(getattr(error, "retry_after_s", RETRY_AFTER_S))}
    if status == HTTPStatus.UNAUTHORIZED:
        headers = {"WWW-Authenticate": "Bearer"}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        _log.warning("request_unserved", code=error.code, detail=explain(error))
    if error.code == "unsupported_content_encoding":
        headers = {"Accept-Encoding": "identity"}
    return _respond(request, status, error.code, str(error), errors=wrong, headers=headers)


async def _on_openai_error(request: Request, error: openai.OpenAIError) -> Response:
    return _respond(request, error.status, error.code, str(error), headers=error.headers, param=error.param)


async def _on_invalid(request: Request, error: RequestValidationError) -> Response:
    all_errors = error.errors()
    body = getattr(request.scope["route"], "body_field", None)
    annotation = None if body is None else body.field_info.annotation
    wrong = [
        WrongField(
            field=".".join(str(part) for part in each["loc"])[:MAX_FIELD_CHARS],
            message=explain_field(each, each["loc"][1:], annotation),
        )
        for each in all_errors[:MAX_LISTED]
    ]
    detail = f"{wrong[0].field}: {wrong[0].message}"
    if more := len(all_errors) - 1:
        detail += f" {more} more {'field is' if more == 1 else 'fields are'} wrong."
    code = "invalid_request"
    if openai.has_openai_form(request.scope):
        code = openai.code_of_wrong_field(all_errors[0]["type"])
    return _respond(request, HTTPStatus.UNPROCESSABLE_ENTITY, code, detail, errors=wrong)


def explain_field(error: Mapping[str, Any], place: Sequence[str | int], annotation: object) -> str:
    """Explain what is wrong with one field in a sentence.

    Args:
        error: Error of the validation.
        place: Place of the field in the model.
        annotation: Annotation that holds the model.
    """
    message = error["msg"]
    if error["type"] == "model_type":
        message = "Input should be an object"
    if error["type"] == "extra_forbidden":
        *outer, name = place
        message = f"There is no such field; {suggest(str(name), _fields_at(annotation, outer))}"
    return message[:MAX_MESSAGE_CHARS] if message.endswith((".", "?")) else f"{message[:MAX_MESSAGE_CHARS]}."


def _fields_at(annotation: object, place: Sequence[str | int]) -> list[str]:
    """Return the names of the fields that a body has at a place."""
    model = _model_in(annotation)
    for name in place:
        if isinstance(name, str) and model is not None:
            model = _model_in(model.model_fields[name].annotation)
    return [] if model is None else list(model.model_fields)


def _model_in(annotation: object) -> type[BaseModel] | None:
    """Find the model in an annotation such as `list[Model] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


async def _on_http_error(request: Request, error: HTTPException) -> Response:
    status = HTTPStatus(error.status_code)
    code, detail = {
        HTTPStatus.NOT_FOUND: ("no_such_path", "No endpoint has this path; /openapi.json lists all endpoints."),
        HTTPStatus.METHOD_NOT_ALLOWED: (
            "method_not_allowed",
            "The endpoint does not support this method; the header `allow` lists those that it supports.",
        ),
        HTTPStatus.REQUEST_TIMEOUT: (
            "request_timeout",
            "The body did not arrive in time (TRIM_API_REQUEST_TIMEOUT_S); send the whole request at once.",
        ),
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
            "body_too_large",
            "The body exceeds TRIM_MAX_BODY_BYTES, or JSON Lines TRIM_MAX_STREAM_BYTES; send less, or raise the limit.",
        ),
    }.get(status, (status.name.lower(), str(error.detail)))
    return _respond(request, status, code, detail, headers=error.headers)


async def _on_programming_error(request: Request, error: ProgrammingError) -> Response:
    if isinstance(error.orig, UndefinedTable | UndefinedColumn):
        return await _on_trim_error(request, SchemaOutdated())
    return await _on_crash(request, error)


async def _on_pool_timeout(request: Request, _error: PoolTimeout) -> Response:
    return await _on_trim_error(request, RetryableError("All connections to the database are in use; try again."))


async def _on_client_gone(_request: Request, _error: ClientDisconnect) -> Response:
    """Respond to nobody. Clients may leave, so nothing is logged; the metrics count the status."""
    return Response(status_code=CLIENT_GONE)


async def _on_crash(request: Request, error: Exception) -> Response:
    _log.error("request_crashed", error=type(error).__name__, exc_info=error)
    detail = "The service failed; its log has the details under this request_id."
    return _respond(request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal", detail)


def _respond(
    request: Request,
    status: HTTPStatus,
    code: str,
    detail: str,
    *,
    errors: Sequence[WrongField] = (),
    headers: Mapping[str, str] | None = None,
    param: str | None = None,
) -> Response:
    request_id = request.scope.get("trim.request_id", "")
    if openai.has_openai_form(request.scope):
        if errors:
            param = openai.param_of(errors[0].field)
            detail = f"{param}: {errors[0].message}"
        status, media_type = openai.status_of(status), "application/json"
        headers = {**openai.headers_for(status), **(headers or {})}
        body = openai.make_body(detail, code=code, status=status, param=param)
    else:
        media_type = _MEDIA_TYPE
        body = ProblemDetails(
            title=status.phrase, status=status, detail=detail, code=code, request_id=request_id, errors=list(errors)
        ).model_dump()
    # The response to a crash bypasses the middleware that adds the id, so it is added here too.
    return Response(
        # In ASCII: names from a request may hold half of a surrogate pair, which UTF-8 cannot encode.
        json.dumps(body),
        status_code=status,
        headers={**(headers or {}), "X-Request-ID": request_id},
        media_type=media_type,
    )
