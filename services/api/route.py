"""What every endpoint checks before the framework does: unknown and repeated parameters, and its body."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from fastapi import Request, Response
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
            if self.body_field is None:
                return await handle(request)
            with_json = JsonRequest(request.scope, request.receive)
            await with_json.json()
            return await handle(with_json)

        return checked

    def _wrong_parameters(self, request: Request) -> Iterator[dict[str, Any]]:
        known = [each.alias for each in self.dependant.query_params]
        for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
            if name not in known:
                yield _wrong("query", name, f"There is no such parameter; {suggest(name, known)}")
            elif count > 1:
                yield _wrong("query", name, f"The parameter is given {count} times; give it once")
        for each in self.dependant.header_params:
            if len(request.headers.getlist(each.alias)) > 1:
                yield _wrong("header", each.alias, "The header is given more than once; give it once")


def _wrong(kind: str, name: str, message: str) -> dict[str, Any]:
    return {"type": "wrong_parameter", "loc": (kind, name), "msg": message}
