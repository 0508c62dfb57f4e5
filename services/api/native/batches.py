"""Endpoints for batches."""

from __future__ import annotations

from functools import partial
from typing import Final
from uuid import UUID

from anyio import to_thread
from fastapi import APIRouter, Request, Response, status

from services.api.batch_routes import DocumentRoute
from services.api.batch_storing import store_batch
from services.api.dependencies import (
    BatchId,
    Cursor,
    IdempotencyKey,
    Limit,
    RootPath,
    WithDatabase,
    WithSettings,
    WithTenant,
)
from services.api.errors import BODY_REFUSALS, NotFound, found, refusals
from services.api.lock_retries import retry_while_locked
from services.api.native.batch_problems import DefaultsParameter, OnErrorParameter
from services.api.presenting import show_batch, show_listed_batch, show_problems
from services.api.schemas.problems import Batch, BatchPage, CancelledBatch, ProblemPage, SubmittedBatch
from services.api.schemas.submissions import BatchBody
from services.api.submitting import check_batch, idempotency
from shared.domain.status import BatchStatus
from shared.heartbeats import silence_s
from shared.store import batches
from shared.store.cancelling import (
    CancelledPortion,
    ProblemLocked,
    begin_batch_cancel,
    count_uncancelled,
    request_batch_cancel,
)
from shared.store.database import Database
from shared.store.finding import list_batch_problems

SUBMISSION: Final = """Submit problems together, as one JSON document or as JSON Lines.

A JSON document is an object with `defaults` and `problems`, or an array of problems. All of them are stored, or none if
one is wrong. JSON Lines (`application/jsonl` or `application/x-ndjson`) has one problem on each line. Such a body is
read as a stream, so it may be much larger. Blank lines do not count. Wrong lines are skipped and listed. `on_error`
chooses the other way for either form. With `skip`, status 422 means that no problem was right."""

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=DocumentRoute)


@router.post(
    "",
    description=SUBMISSION,
    status_code=status.HTTP_201_CREATED,
    responses={
        200: {
            "model": SubmittedBatch,
            "description": "Batch that an earlier request with the same idempotency key made.",
        },
        **refusals(*BODY_REFUSALS, 409, 503),
    },
)
def submit(  # noqa: PLR0917 - FastAPI passes arguments by name
    body: BatchBody,
    request: Request,
    response: Response,
    database: WithDatabase,
    settings: WithSettings,
    tenant_id: WithTenant,
    root_path: RootPath,
    on_error: OnErrorParameter = None,  # noqa: ARG001 - the other route takes requests with `skip`
    defaults: DefaultsParameter = None,  # noqa: ARG001 - the route has read it
    idempotency_key: IdempotencyKey = None,
) -> SubmittedBatch:
    """Submit problems together. `SUBMISSION` describes this and the route for JSON Lines."""
    checked = check_batch(body, settings)
    stored = store_batch(
        database,
        settings,
        tenant_id=tenant_id,
        submissions=[each.submission for each in checked],
        idempotency=idempotency(idempotency_key, *checked),
        root_path=root_path,
    )
    return stored.respond(request, response, settings, received=len(checked))


@router.get("", responses=refusals(503))
def list_(
    database: WithDatabase, tenant_id: WithTenant, root_path: RootPath, cursor: Cursor = None, limit: Limit = 50
) -> BatchPage:
    """List batches, newest first, without the sums over their problems."""
    with database.session() as session:
        page = batches.list_batches(session, tenant_id, limit=limit, cursor=cursor)
    items = [show_listed_batch(each, root_path) for each in page.items]
    return BatchPage(items=items, next_cursor=page.next_cursor)


@router.get("/{batch_id}", responses=refusals(404, 503))
def get(batch_id: BatchId, database: WithDatabase, tenant_id: WithTenant, root_path: RootPath) -> Batch:
    """Get a batch with the sums over its problems."""
    with database.session() as session:
        return show_batch(found(batches.read_batch(session, tenant_id, batch_id)), root_path)


@router.post(
    "/{batch_id}/cancel",
    status_code=status.HTTP_202_ACCEPTED,
    responses={
        200: {"model": CancelledBatch, "description": "Batch whose problems had all ended already."},
        **refusals(404, 503),
    },
)
async def cancel(
    batch_id: BatchId, response: Response, database: WithDatabase, tenant_id: WithTenant, root_path: RootPath
) -> CancelledBatch:
    """Cancel the open problems of a batch: status 202 while there are any, 200 if all have ended already.

    The results of ended problems and the steps so far of the others stay. Repeating the request does no harm. It is
    needed after status 503 with the code `problem_locked`: the problems that nobody has locked are cancelled then.
    """
    newly = 0

    async def cancel_free() -> None:
        nonlocal newly
        after: UUID | None = None
        while True:
            done = await to_thread.run_sync(partial(_cancel_portion, database, tenant_id, batch_id, after))
            newly += done.count
            if (after := done.last) is None:
                break
        if left := await to_thread.run_sync(partial(_count_uncancelled, database, tenant_id, batch_id)):
            raise ProblemLocked(
                f"Another session has locked {left} {'problem' if left == 1 else 'problems'} of the batch, the others "
                "are being cancelled; try again, and see /health/ready for who it is."
            )

    await to_thread.run_sync(partial(_begin_cancel, database, tenant_id, batch_id))
    await retry_while_locked(cancel_free)
    batch = await to_thread.run_sync(partial(get, batch_id, database, tenant_id, root_path))
    if batch.status == BatchStatus.ENDED and not newly:
        response.status_code = status.HTTP_200_OK
    return CancelledBatch(**batch.model_dump(), newly_cancelled=newly)


def _begin_cancel(database: Database, tenant_id: UUID, batch_id: UUID) -> None:
    with database.session() as session:
        if not batches.has_batch(session, tenant_id, batch_id):
            raise NotFound
        begin_batch_cancel(session, tenant_id, batch_id)


def _cancel_portion(database: Database, tenant_id: UUID, batch_id: UUID, after: UUID | None) -> CancelledPortion:
    with database.session() as session:
        return request_batch_cancel(session, tenant_id, batch_id, after=after)


def _count_uncancelled(database: Database, tenant_id: UUID, batch_id: UUID) -> int:
    with database.session() as session:
        return count_uncancelled(session, tenant_id, batch_id)


@router.get("/{batch_id}/problems", responses=refusals(404, 503))
def problems(  # noqa: PLR0917 - FastAPI passes arguments by name
    batch_id: BatchId,
    database: WithDatabase,
    settings: WithSettings,
    tenant_id: WithTenant,
    root_path: RootPath,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> ProblemPage:
    """List the problems of a batch in order of submission."""
    with database.session() as session:
        if not batches.has_batch(session, tenant_id, batch_id):
            raise NotFound
        page = list_batch_problems(session, tenant_id, batch_id, limit=limit, cursor=cursor)
        items = show_problems(session, page.items, root_path, silence_s=silence_s(settings))
    return ProblemPage(items=items, next_cursor=page.next_cursor)
