"""What every endpoint checks before the framework does: unknown and repeated parameters, and its body."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, get_args, get_origin

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from services.api.json_body import JsonRequest
from shared.spelling import suggest


class CheckedRoute(APIRoute):
    """A route that refuses query parameters that it does not have, repeated parameters, and bodies that are not JSON.

    The framework ignores the first, takes one of the second, and reads some of the third as other than they are.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the framework's handler with the checks before it."""
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            if wrong := [*self._wrong_parameters(request)]:
                raise RequestValidationError(wrong)
            return await handle(await self.read_body(request))

        return checked

    async def read_body(self, request: Request) -> Request:
        """Read the body of a request, if the endpoint takes one, and return the request that has it."""
        if self.body_field is None:
            return request
        with_json = JsonRequest(request.scope, request.receive)
        await with_json.json()
        return with_json

    def _wrong_parameters(self, request: Request) -> Iterator[dict[str, Any]]:
        dependants = [*_walk(self.dependant)]
        known = {each.alias: each.field_info for one in dependants for each in one.query_params}
        for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
            if name not in known:
                yield _wrong("query", name, f"There is no such parameter; {suggest(name, known)}")
            elif count > 1 and not _is_list(known[name].annotation):
                yield _wrong("query", name, f"The parameter is given {count} times; give it once")
        for each in (header for one in dependants for header in one.header_params):
            if len(request.headers.getlist(each.alias)) > 1:
                yield _wrong("header", each.alias, "The header is given more than once; give it once")


def _is_list(annotation: object) -> bool:
    """Tell whether a parameter may be repeated: its annotation is a list, or a union with one."""
    return get_origin(annotation) is list or any(get_origin(each) is list for each in get_args(annotation))


def _walk(dependant: Dependant) -> Iterator[Dependant]:
    """Yield what an endpoint depends on, itself first."""
    yield dependant
    for each in dependant.dependencies:
        yield from _walk(each)


def _wrong(kind: str, name: str, message: str) -> dict[str, Any]:
    return {"type": "wrong_parameter", "loc": (kind, name), "msg": message}
