"""Endpoints for batches."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response, status

from services.api.counting import count_submitted
from services.api.dependencies import BatchId, Cursor, IdempotencyKey, Limit, WithDatabase, WithSettings, WithTenant
from services.api.errors import RESPONSES, NotFound, found
from services.api.json_route import JsonRoute
from services.api.presenting import show_batch, show_problem
from services.api.readiness import silence_s
from services.api.schemas.problems import Batch, ProblemPage, SubmittedBatch
from services.api.schemas.submissions import BatchRequest
from services.api.submitting import check_batch, idempotency
from services.api.tracing import export_submission
from shared.store import queries
from shared.store.submissions import submit_batch

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=JsonRoute, responses=RESPONSES)


@router.post("", status_code=status.HTTP_201_CREATED)
def submit(  # noqa: PLR0917 - FastAPI passes arguments by name
    body: BatchRequest,
    request: Request,
    response: Response,
    database: WithDatabase,
    settings: WithSettings,
    tenant_id: WithTenant,
    idempotency_key: IdempotencyKey = None,
) -> SubmittedBatch:
    """Submit problems together: all of them, or none if one is wrong."""
    submissions = check_batch(body, settings)
    with database.session() as session:
        stored = submit_batch(
            session, tenant_id, submissions, idempotency(idempotency_key, body), silence_s=silence_s(settings)
        )
        batch = show_batch(found(queries.read_batch(session, tenant_id, stored.id)))
        problem_ids = queries.list_batch_ids(session, tenant_id, stored.id)
    count_submitted(stored)
    response.headers["Location"] = batch.links["self"]
    if not stored.is_new:
        response.status_code = status.HTTP_200_OK
    else:
        export_submission(request, problem_ids)
    return SubmittedBatch(**batch.model_dump(), problem_ids=list(problem_ids))


@router.get("/{batch_id}")
def get(batch_id: BatchId, database: WithDatabase, tenant_id: WithTenant) -> Batch:
    """Get a batch with the sums over its problems."""
    with database.session() as session:
        return show_batch(found(queries.read_batch(session, tenant_id, batch_id)))


@router.get("/{batch_id}/problems")
def problems(
    batch_id: BatchId, database: WithDatabase, tenant_id: WithTenant, cursor: Cursor = None, limit: Limit = 50
) -> ProblemPage:
    """List the problems of a batch in order of submission."""
    with database.session() as session:
        if not queries.has_batch(session, tenant_id, batch_id):
            raise NotFound
        page = queries.list_batch_problems(session, tenant_id, batch_id, limit=limit, cursor=cursor)
    return ProblemPage(items=[show_problem(each) for each in page.items], next_cursor=page.next_cursor)
