"""Endpoints of the keys of the caller's tenant."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Response, status

from services.api.access.callers import ADMIN
from services.api.dependencies import Cursor, Limit, WithCaller, WithDatabase
from services.api.errors import BODY_REFUSALS, found, refusals
from services.api.route import CheckedRoute
from services.api.schemas.access import ApiKey, KeyPage, KeyRequest, NewApiKey, RotationRequest
from shared.log import get_logger
from shared.store import access
from shared.store.access import NewKey

router = APIRouter(prefix="/v1/keys", tags=["access"], route_class=CheckedRoute)

KeyId = Annotated[UUID, Path(description="Id of the key.")]

_log = get_logger(__name__)


@router.get("", responses=refusals(503), openapi_extra=ADMIN)
def list_keys(database: WithDatabase, caller: WithCaller, cursor: Cursor = None, limit: Limit = 50) -> KeyPage:
    """List the keys of the tenant, newest first, also those that have ended."""
    with database.session() as session:
        page = access.list_keys(session, caller.tenant_id, limit=limit, cursor=cursor)
    return KeyPage(items=[ApiKey.model_validate(each) for each in page.items], next_cursor=page.next_cursor)


@router.post("", status_code=status.HTTP_201_CREATED, responses=refusals(*BODY_REFUSALS, 503), openapi_extra=ADMIN)
def create_key(body: KeyRequest, response: Response, database: WithDatabase, caller: WithCaller) -> NewApiKey:
    """Create a key. Only this response has the key itself; a key may have scopes that the caller's lacks."""
    with database.session() as session:
        made = access.create_key(session, caller.tenant_id, **dict(body))
    return show_new(made, response)


@router.post(
    "/{key_id}/rotate",
    status_code=status.HTTP_201_CREATED,
    responses=refusals(*BODY_REFUSALS, 404, 409, 503),
    openapi_extra=ADMIN,
)
def rotate_key(
    key_id: KeyId, body: RotationRequest, response: Response, database: WithDatabase, caller: WithCaller
) -> NewApiKey:
    """Create a key with the name, the scopes and the lifetime of another one, which ends after the overlap."""
    with database.session() as session:
        made = found(access.rotate_key(session, caller.tenant_id, key_id, overlap_s=body.overlap_s))
    return show_new(made, response)


@router.post("/{key_id}/revoke", responses=refusals(404, 503), openapi_extra=ADMIN)
def revoke_key(key_id: KeyId, database: WithDatabase, caller: WithCaller) -> ApiKey:
    """Revoke a key: within seconds, every process refuses it."""
    with database.session() as session:
        shown = ApiKey.model_validate(found(access.revoke_key(session, caller.tenant_id, key_id)))
    _log.info("key_revoked", key=shown.prefix, tenant_id=str(caller.tenant_id))
    return shown


def show_new(made: NewKey, response: Response) -> NewApiKey:
    """Show a key that was just created, which no cache may keep."""
    response.headers["Cache-Control"] = "no-store"
    shown = ApiKey.model_validate(made.row)
    _log.info("key_created", key=shown.prefix, tenant_id=str(made.row.tenant_id), scopes=made.row.scopes)
    return NewApiKey(**shown.model_dump(), key=made.text)
