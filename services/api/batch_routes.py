"""Routes of the two ways to submit many problems: one JSON document, or problem by problem."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers, QueryParams
from starlette.routing import Match
from starlette.types import Scope

from services.api.errors import explain_field
from services.api.json_body import JsonRequest, UnsupportedContentEncoding, is_compressed, read_json
from services.api.lines import is_lines
from services.api.middleware import STREAM_SCOPE
from services.api.route import CheckedRoute
from services.api.schemas.submissions import Choices, UncheckedBatch
from services.api.submitting import check_size
from shared.errors import PermanentError
from shared.settings import Settings


class DocumentRoute(CheckedRoute):
    """Reads an array of problems as the object with these problems, and with the defaults of the query."""

    async def read_body(self, request: Request) -> Request:
        """Read the body, if the endpoint takes one."""
        if self.body_field is None:
            return request
        with_json = JsonRequest(request.scope, request.receive)
        with_json.replace_json(await _read_object(with_json))
        return with_json


class ProblemsRoute(CheckedRoute):
    """Takes requests whose problems are checked one by one: JSON Lines, and those that skip wrong problems."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Leave all other requests to the route after it."""
        if scope["type"] == "http" and (
            has_lines(scope) or QueryParams(scope["query_string"]).get("on_error") == "skip"
        ):
            return super().matches(scope)
        return Match.NONE, {}

    async def read_body(self, request: Request) -> Request:
        """Lift the limit on bodies for a stream; the endpoint reads it."""
        if has_lines(request.scope):
            if is_compressed(request):
                raise UnsupportedContentEncoding
            request.scope[STREAM_SCOPE] = True
        return request


async def read_unchecked(request: Request, settings: Settings) -> UncheckedBatch:
    """Read a JSON document whose problems are not checked yet.

    Raises:
        RequestValidationError: It would not be a batch even if all of its problems were right.
        InvalidSubmission: It has too many problems.
    """
    try:
        batch = UncheckedBatch.model_validate(await _read_object(JsonRequest(request.scope, request.receive)))
    except ValidationError as error:
        raise RequestValidationError(_errors(error, "body", model=UncheckedBatch)) from error
    check_size(len(batch.problems), settings)
    return batch


async def _read_object(request: JsonRequest) -> object:
    """Read a JSON document; an array becomes the object with it and the defaults of the query.

    Raises:
        RequestValidationError: The defaults of the query are wrong, or the document has its own.
    """
    body = await request.json()
    defaults = read_defaults(request)
    if isinstance(body, list):
        return {"problems": body, "defaults": defaults.model_dump(exclude_unset=True)}
    if "defaults" in request.query_params:
        raise _wrong_defaults("The body is an object, which has `defaults` itself; omit the parameter")
    return body


def has_lines(scope: Scope) -> bool:
    """Tell whether the body of a request is JSON Lines."""
    return is_lines(Headers(scope=scope).get("content-type", ""))


def read_defaults(request: Request) -> Choices:
    """Read the options for problems that omit them, from the query.

    Raises:
        RequestValidationError: They are wrong.
    """
    written = request.query_params.get("defaults")
    if written is None:
        return Choices()
    try:
        return Choices.model_validate(read_json(written.encode(), what="parameter"))
    except ValidationError as error:
        raise RequestValidationError(_errors(error, "query", "defaults", model=Choices)) from error
    except PermanentError as error:
        raise _wrong_defaults(str(error)) from error


def _errors(error: ValidationError, *place: str, model: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the errors of a model at a place of the request, explained."""
    return [
        {**each, "type": "explained", "loc": (*place, *each["loc"]), "msg": explain_field(each, each["loc"], model)}
        for each in error.errors(include_url=False, include_input=False)
    ]


def _wrong_defaults(message: str) -> RequestValidationError:
    wrong: dict[str, Any] = {"type": "wrong_parameter", "loc": ("query", "defaults"), "msg": message}
    return RequestValidationError([wrong])
