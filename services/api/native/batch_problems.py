"""The endpoint that takes the problems of a batch one by one."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response, status

from services.api.batch_routes import ProblemsRoute, has_lines, read_defaults, read_unchecked
from services.api.batch_storing import store_batch
from services.api.dependencies import IdempotencyKey, RootPath, WithDatabase, WithSettings, WithTenant
from services.api.intake import Intake, OnError
from services.api.lanes import INTAKE
from services.api.lines import LineSplitter
from services.api.schemas.problems import SubmittedBatch
from shared.settings import Settings

OnErrorParameter = Annotated[
    OnError | None,
    Query(
        description="What a wrong problem does: `reject` refuses the whole request, the default for JSON; `skip` "
        "stores the others, the default for JSON Lines."
    ),
]
DefaultsParameter = Annotated[
    str | None,
    Query(
        max_length=20_000,
        description="Options for problems that omit them, as one JSON object in the form of the `defaults` of a batch; "
        "for bodies that are an array or JSON Lines.",
    ),
]

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=ProblemsRoute)


@router.post("", status_code=status.HTTP_201_CREATED, include_in_schema=False)
async def submit(  # noqa: PLR0917 - FastAPI passes arguments by name
    request: Request,
    response: Response,
    database: WithDatabase,
    settings: WithSettings,
    tenant_id: WithTenant,
    root_path: RootPath,
    on_error: OnErrorParameter = None,
    defaults: DefaultsParameter = None,  # noqa: ARG001 - `read_defaults` reads it, and names its wrong fields
    idempotency_key: IdempotencyKey = None,
) -> SubmittedBatch:
    """Submit problems that are checked one by one. The description of the other route covers both."""
    document = None if has_lines(request.scope) else await read_unchecked(request, settings)
    chosen = read_defaults(request) if document is None else document.defaults
    taken_in = Intake(settings, chosen, on_error=on_error or "skip")
    with closing(taken_in.spool):
        if document is None:
            await _take_lines(request, taken_in, settings)
        else:
            await INTAKE.run(partial(taken_in.take_all, document.problems))
        taken_in.finish()
        stored = await to_thread.run_sync(
            partial(
                store_batch,
                database,
                settings,
                tenant_id=tenant_id,
                submissions=taken_in.spool,
                idempotency=taken_in.idempotency(idempotency_key),
                root_path=root_path,
            )
        )
    return stored.respond(
        request,
        response,
        settings,
        received=taken_in.received,
        rejected=taken_in.rejected,
        errors=taken_in.errors,
    )


async def _take_lines(request: Request, taken_in: Intake, settings: Settings) -> None:
    """Take the lines of a stream as they arrive."""
    splitter = LineSplitter(settings.max_body_bytes)

    def take(chunk: bytes | None) -> None:
        for line in splitter.end() if chunk is None else splitter.feed(chunk):
            taken_in.take_line(line)

    async for chunk in request.stream():
        if chunk:
            await INTAKE.run(partial(take, chunk))
    await INTAKE.run(partial(take, None))
