"""The endpoint that streams what happens to a problem."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request, Response, status
from fastapi.sse import format_sse_event

from services.api.dependencies import ProblemId, RootPath, WithFollowing, WithTenant
from services.api.errors import refusals
from services.api.following import START, Decided, Ended, Event, Quiet, Stepped
from services.api.middleware import is_head
from services.api.route import CheckedRoute
from services.api.streaming import HEADERS, KEEP_ALIVE, EventStream
from shared.store.progress import Place

END: Final = "end"
"""Id of the last event of a problem."""

_PLACE: Final = rf"^({END}|[0-9]{{1,9}}\.[0-9]{{1,9}})?$"
_STREAM: Final[dict[str, Any]] = {
    "description": "Server-sent events. `decision` has a decision as its data, `step` an accepted step, and `end`, the "
    "last event, the problem; each is an object as the other endpoints return it. The decisions on a step come before "
    "it. The `id` of an event is the number of decisions and the number of steps up to it, such as `7.5`, or `end`. A "
    "comment comes after 15 seconds without an event. If the stream stops before `end`, follow the problem again with "
    "the id of the last event.",
    "content": {EventStream.media_type: {"schema": {"type": "string"}}},
}

router = APIRouter(prefix="/v1/problems", tags=["problems"], route_class=CheckedRoute)


@router.get(
    "/{problem_id}/events",
    status_code=status.HTTP_200_OK,  # The framework looks for it in the class.
    response_class=EventStream,
    responses={
        200: _STREAM,
        204: {"description": "The last event was the end; nothing follows it."},
        **refusals(404, 503),
    },
)
async def events(  # noqa: PLR0917 - FastAPI passes arguments by name
    problem_id: ProblemId,
    request: Request,
    following: WithFollowing,
    tenant_id: WithTenant,
    root_path: RootPath,
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            pattern=_PLACE,
            description="Id of the last event that the client has; the stream begins after it. It precedes `after`.",
        ),
    ] = None,
    after: Annotated[
        str | None,
        Query(pattern=_PLACE, description="The same, for clients that cannot set the header."),
    ] = None,
) -> Response:
    """Stream the decisions on a problem and its steps as they are taken, and its end."""
    seen = last_event_id or after or str(START)
    place = START if seen == END else Place(*map(int, seen.split(".")))
    happening = await following.follow_problem(tenant_id, problem_id, root_path=root_path, after=place)
    if seen == END:
        return Response(status_code=status.HTTP_204_NO_CONTENT)  # An EventSource then does not connect again.
    if is_head(request.scope):
        return Response(headers=HEADERS, media_type=EventStream.media_type)
    return EventStream(_write(happening))


async def _write(happening: AsyncGenerator[Event]) -> AsyncGenerator[bytes]:
    async with aclosing(happening):
        async for event in happening:
            yield _format(event)


def _format(event: Event) -> bytes:
    match event:
        case Decided():
            data = event.decision.model_dump_json()
            return format_sse_event(event="decision", data_str=data, id=str(event.place))
        case Stepped():
            return format_sse_event(event="step", data_str=event.step.model_dump_json(), id=str(event.place))
        case Ended():
            return format_sse_event(event=END, data_str=event.problem.model_dump_json(), id=END)
        case Quiet():
            return KEEP_ALIVE
