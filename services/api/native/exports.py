"""The endpoint that exports problems."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from services.api.dependencies import RootPath, WithDatabase, WithSettings, WithTenant
from services.api.errors import refusals
from services.api.exports.formats import FORMATS, FormatName
from services.api.exports.portions import Reader
from services.api.exports.streaming import stream
from services.api.filters import WithFilter
from services.api.lanes import EXPORTS
from services.api.route import CheckedRoute
from shared.clock import SYSTEM_CLOCK
from shared.heartbeats import silence_s

router = APIRouter(prefix="/v1/problems", tags=["problems"], route_class=CheckedRoute)

_CONTENT: dict[str, Any] = {
    each.media_type.partition(";")[0]: {"schema": {"type": "string", "format": "binary"}} for each in FORMATS.values()
}


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={
        200: {
            "content": _CONTENT,
            "headers": {
                "Content-Disposition": {"schema": {"type": "string"}, "description": "Name for a file of the export."}
            },
        },
        **refusals(501, 503),
    },
)
async def export(  # noqa: PLR0917 - FastAPI passes arguments by name
    wanted: WithFilter,
    database: WithDatabase,
    settings: WithSettings,
    tenant_id: WithTenant,
    root_path: RootPath,
    format: Annotated[FormatName, Query(description="Format of the export.")] = "jsonl",  # noqa: A002 - public name
) -> StreamingResponse:
    """Export problems as a stream, newest first, with the conditions of the listing.

    `jsonl` has the problems as the listing has them, one a line. `csv` and `parquet` have one row for each; in `csv`,
    text that a spreadsheet would run as a formula begins with an apostrophe. `prm800k` has the steps and the escalated
    drafts with ratings from PRM scores, `preferences` has escalated drafts beside the large model's steps; both leave
    out problems that have not ended or were erased.

    Problems that are submitted meanwhile are not part of the export. If the service cannot complete it, the chunked
    response breaks off without its last chunk, which HTTP clients report as an error.
    """
    chosen = FORMATS[format]
    reader = Reader(
        database=database,
        tenant_id=tenant_id,
        wanted=wanted,
        root_path=root_path,
        silence_s=silence_s(settings),
        has_records=chosen.has_records,
    )
    writer = await EXPORTS.run(chosen.writer)
    first = await EXPORTS.run(partial(reader.read, None))
    name = f"trim-problems-{SYSTEM_CLOCK.now():%Y%m%dT%H%M%SZ}.{chosen.extension}"
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(stream(reader, writer, first), media_type=chosen.media_type, headers=headers)
