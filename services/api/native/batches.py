"""Endpoints for batches."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response, status

from services.api.counting import count_submitted
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
from services.api.presenting import show_batch, show_problems
from services.api.route import CheckedRoute
from services.api.schemas.problems import Batch, ProblemPage, SubmittedBatch
from services.api.schemas.submissions import BatchRequest
from services.api.submitting import check_batch, idempotency
from services.api.tracing import export_submission
from shared.heartbeats import silence_s
from shared.store import queries
from shared.store.submissions import submit_batch

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=CheckedRoute)


@router.post(
    "",
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
    body: BatchRequest,
    request: Request,
    response: Response,
    database: WithDatabase,
    settings: WithSettings,
    tenant_id: WithTenant,
    root_path: RootPath,
    idempotency_key: IdempotencyKey = None,
) -> SubmittedBatch:
    """Submit problems together: all of them, or none if one is wrong."""
    checked = check_batch(body, settings)
    with database.session() as session:
        stored = submit_batch(
            session,
            tenant_id,
            [each.submission for each in checked],
            idempotency(idempotency_key, *checked),
            silence_s=silence_s(settings),
            max_queued=settings.tenant_max_queued,
        )
        batch = show_batch(found(queries.read_batch(session, tenant_id, stored.id)), root_path)
        problem_ids = queries.list_batch_ids(session, tenant_id, stored.id)
    count_submitted(stored)
    response.headers["Location"] = batch.links["self"]
    if not stored.is_new:
        response.status_code = status.HTTP_200_OK
    else:
        export_submission(request, problem_ids)
    return SubmittedBatch(**batch.model_dump(), problem_ids=list(problem_ids))


@router.get("/{batch_id}", responses=refusals(404, 503))
def get(batch_id: BatchId, database: WithDatabase, tenant_id: WithTenant, root_path: RootPath) -> Batch:
    """Get a batch with the sums over its problems."""
    with database.session() as session:
        return show_batch(found(queries.read_batch(session, tenant_id, batch_id)), root_path)


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
        if not queries.has_batch(session, tenant_id, batch_id):
            raise NotFound
        page = queries.list_batch_problems(session, tenant_id, batch_id, limit=limit, cursor=cursor)
        items = show_problems(session, page.items, root_path, silence_s=silence_s(settings))
    return ProblemPage(items=items, next_cursor=page.next_cursor)
