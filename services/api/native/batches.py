"""Endpoints for batches: submit many problems at once, see how they stand."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter, Response, status
from pydantic import ValidationError

from services.api import schemas
from services.api.dependencies import Cursor, IdempotencyKey, Limit, WithDatabase, WithSettings
from services.api.errors import MAX_FIELD_CHARS, RESPONSES, InvalidSubmission, NotFound
from services.api.json_route import JsonRoute
from services.api.presenting import show
from services.api.submitting import check, idempotency
from shared.settings import Settings
from shared.store import queries
from shared.store.submissions import Submission, submit_batch

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=JsonRoute, responses=RESPONSES)

_COMPLETED = ("limits", "sampling")
"""Fields that the defaults complete one by one; the others are taken whole."""


@router.post("", status_code=status.HTTP_201_CREATED)
def submit(
    body: schemas.BatchRequest,
    response: Response,
    database: WithDatabase,
    settings: WithSettings,
    idempotency_key: IdempotencyKey = None,
) -> schemas.SubmittedBatch:
    """Submit many problems: all of them, or none if one is wrong."""
    submissions = _check_all(body, settings)
    with database.session() as session:
        stored = submit_batch(session, submissions, idempotency(idempotency_key, body))
        reading = queries.read_batch(session, stored.id)
        assert reading is not None, "it was stored in this transaction or before"
        ids = queries.list_batch_ids(session, stored.id)
    shown = _show(reading)
    response.headers["Location"] = shown.links["self"]
    if not stored.is_new:
        response.status_code = status.HTTP_200_OK
    return schemas.SubmittedBatch(**shown.model_dump(), problem_ids=list(ids))


@router.get("/{batch_id}")
def get(batch_id: UUID, database: WithDatabase) -> schemas.Batch:
    """Get a batch with its sums."""
    with database.session() as session:
        reading = queries.read_batch(session, batch_id)
    if reading is None:
        raise NotFound
    return _show(reading)


@router.get("/{batch_id}/problems")
def problems(
    batch_id: UUID,
    database: WithDatabase,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> schemas.ProblemPage:
    """List the problems of a batch, in the order of their submission (`batch_index` from 0 on)."""
    with database.session() as session:
        if not queries.has_batch(session, batch_id):
            raise NotFound
        page = queries.list_batch_problems(session, batch_id, limit=limit, cursor=cursor)
        return schemas.ProblemPage(items=[show(each) for each in page.items], next_cursor=page.next_cursor)


def _check_all(body: schemas.BatchRequest, settings: Settings) -> list[Submission]:
    """Complete every problem with the batch's defaults and check it.

    Raises:
        InvalidSubmission: A problem is wrong; the error names it by its place.
    """
    if len(body.problems) > settings.max_batch_size:
        detail = f"The batch has {len(body.problems)} problems; at most {settings.max_batch_size} are taken."
        raise InvalidSubmission("body.problems", detail)
    defaults: dict[str, Any] = body.defaults.model_dump(exclude_unset=True)
    submissions = []
    for index, each in enumerate(body.problems):
        field = f"body.problems.{index}"
        try:
            problem = schemas.ProblemRequest.model_validate(_completed(each, defaults))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join([field, *(str(part) for part in first["loc"])])[:MAX_FIELD_CHARS]
            raise InvalidSubmission(place, f"{place}: {first['msg']}.") from error
        submissions.append(check(problem, settings, field=field))
    return submissions


def _completed(problem: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Add to a problem what it leaves to the defaults; limits and sampling are completed field by field."""
    made = {**defaults, **problem}
    for name in _COMPLETED:
        ours, default = problem.get(name), defaults.get(name)
        if isinstance(ours, dict) and default is not None:
            made[name] = {**default, **ours}
    return made


def _show(reading: queries.BatchReading) -> schemas.Batch:
    here = f"/v1/batches/{reading.batch.id}"
    return schemas.Batch(
        id=reading.batch.id,
        size=reading.batch.size,
        created_at=reading.batch.created_at,
        statuses=dict(reading.statuses),
        verdicts=dict(reading.verdicts),
        steps=reading.steps,
        escalated_steps=reading.escalated_steps,
        ledger=schemas.Ledger.model_validate(reading.ledger),
        links={"self": here, "problems": f"{here}/problems"},
    )
