"""Errors in OpenAI's form. `services.api.errors` decides what an error is; this module writes its body.

Nothing here imports the rest of the api, because the handlers of every error import this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.errors import PermanentError, TrimError

PREFIXES: Final = (
    "/v1/models",
    "/v1/chat",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/files",
    "/v1/moderations",
    "/v1/responses",
)
"""Beginnings of the paths that clients of OpenAI's API call, whether they exist here or not."""

RETRY_HEADER: Final = "X-Should-Retry"
"""Header that OpenAI's clients obey. Without it, they retry 408, 409, 429 and every status from 500 on."""

NO_RETRY: Final[Mapping[str, str]] = MappingProxyType({RETRY_HEADER: "false"})
"""A retry would buy the same problem again, with the same outcome in most cases."""

CODES: Final = (
    "model_not_found",
    "missing_required_parameter",
    "unknown_parameter",
    "unsupported_value",
    "invalid_value",
    "context_length_exceeded",
    "problem_cancelled",
    "problem_expired",
    "stopping",
)
"""Codes of errors that only these routes have."""

_KINDS: Final[Mapping[str, str]] = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "unknown_field": "unknown_parameter",
    "unsupported": "unsupported_value",
    "literal_error": "unsupported_value",
}
"""Codes of wrong fields by the type that pydantic gives their errors; other ones are `invalid_value`."""

ErrorType = Literal[
    "invalid_request_error", "authentication_error", "permission_error", "rate_limit_error", "server_error"
]


class ErrorDetail(BaseModel):
    """What is wrong."""

    message: str = Field(description="Explanation in one sentence, with the next step.")
    type: ErrorType = Field(description="Kind of the error, which follows from the status.")
    param: str | None = Field(description="Place of the wrong field, such as `messages[0].role`, if there is one.")
    code: Annotated[str, Field(examples=[*CODES])] = Field(description="Short, stable name of the error.")


class ErrorResponse(BaseModel):
    """Error response in OpenAI's form."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "message": "There is no model `trim-smal`; did you mean `trim-small`?",
                        "type": "invalid_request_error",
                        "param": "model",
                        "code": "model_not_found",
                    }
                }
            ]
        }
    )

    error: ErrorDetail = Field(description="What is wrong.")


class OpenAIError(TrimError):
    """A request in OpenAI's form has no result."""

    status: HTTPStatus
    param: str | None = None
    """Parameter that is wrong."""
    headers: Mapping[str, str] = MappingProxyType({})


class UnknownModel(OpenAIError, PermanentError):
    """There is no model of this name; GET /v1/models lists the models."""

    code = "model_not_found"
    status = HTTPStatus.NOT_FOUND
    param = "model"


class WrongParameter(OpenAIError, PermanentError):
    """A parameter of the request has a wrong value; the error names it."""

    code = "invalid_value"
    status = HTTPStatus.BAD_REQUEST

    def __init__(self, param: str, message: str, *, code: str | None = None) -> None:
        super().__init__(f"{param}: {message}")
        self.param = param
        if code not in (None, "invalid_request"):  # The latter is the name of the same in the native API.
            self.code = code


class UnsupportedValue(WrongParameter):
    """The parameter is one of OpenAI's, and nothing in this service could honour its value."""

    code = "unsupported_value"


class UnknownParameter(WrongParameter):
    """There is no parameter of this name."""

    code = "unknown_parameter"


class Unsolved(OpenAIError):
    """The problem ended without a solution."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: HTTPStatus,
        param: str | None = None,
        headers: Mapping[str, str] = NO_RETRY,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.param = param
        self.headers = headers


def has_openai_form(scope: Mapping[str, Any]) -> bool:
    """Tell whether a request gets errors in OpenAI's form: whether its path is one of OpenAI's."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in PREFIXES)


def status_of(status: HTTPStatus) -> HTTPStatus:
    """Return the status that OpenAI's clients expect: a wrong field has 400 there, and not 422."""
    return HTTPStatus.BAD_REQUEST if status == HTTPStatus.UNPROCESSABLE_ENTITY else status


def code_of_wrong_field(kind: str) -> str:
    """Return the code for a wrong field by the type of pydantic's error."""
    return _KINDS.get(kind, "invalid_value")


def param_of(field: str) -> str:
    """Write the place of a field as OpenAI does: `messages[0].role` for `body.messages.0.role`."""
    first, *others = [part for part in field.removeprefix("body.").split(".") if part] or ["body"]
    return first + "".join(f"[{part}]" if part.isdecimal() else f".{part}" for part in others)


def make_body(message: str, *, code: str, status: HTTPStatus, param: str | None = None) -> dict[str, Any]:
    """Make the body of an error."""
    detail = ErrorDetail(message=message, type=_type_of(status), param=param, code=code)
    return ErrorResponse(error=detail).model_dump()


def headers_for(status: HTTPStatus) -> Mapping[str, str]:
    """Return the headers of an error: a conflict stays one, so no client should retry it, as OpenAI's would."""
    return NO_RETRY if status == HTTPStatus.CONFLICT else {}


def _type_of(status: HTTPStatus) -> ErrorType:
    by_status: Mapping[HTTPStatus, ErrorType] = {
        HTTPStatus.UNAUTHORIZED: "authentication_error",
        HTTPStatus.FORBIDDEN: "permission_error",
        HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    }
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "server_error"
    return by_status.get(status, "invalid_request_error")
