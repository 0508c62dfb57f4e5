"""Endpoints of tenants, for admins of the default tenant."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Response, status

from services.api.access.callers import ADMIN
from services.api.access.keys import show_new
from services.api.dependencies import Cursor, Limit, WithDatabase, check_is_operator
from services.api.errors import BODY_REFUSALS, found, refusals
from services.api.route import CheckedRoute
from services.api.schemas.access import KeyRequest, NewApiKey, Tenant, TenantChange, TenantPage, TenantRequest
from shared.store import access

router = APIRouter(
    prefix="/v1/tenants", tags=["access"], route_class=CheckedRoute, dependencies=[Depends(check_is_operator)]
)

TenantId = Annotated[UUID, Path(description="Id of the tenant.")]


@router.get("", responses=refusals(503), openapi_extra=ADMIN)
def list_tenants(database: WithDatabase, cursor: Cursor = None, limit: Limit = 50) -> TenantPage:
    """List all tenants, newest first."""
    with database.session() as session:
        page = access.list_tenants(session, limit=limit, cursor=cursor)
    return TenantPage(items=[Tenant.model_validate(each) for each in page.items], next_cursor=page.next_cursor)


@router.post("", status_code=status.HTTP_201_CREATED, responses=refusals(*BODY_REFUSALS, 409, 503), openapi_extra=ADMIN)
def create_tenant(body: TenantRequest, database: WithDatabase) -> Tenant:
    """Create a tenant. It has no key yet."""
    with database.session() as session:
        return Tenant.model_validate(access.create_tenant(session, body.name, body.model_dump(exclude={"name"})))


@router.patch("/{tenant_id}", responses=refusals(*BODY_REFUSALS, 404, 409, 503), openapi_extra=ADMIN)
def change_tenant(tenant_id: TenantId, body: TenantChange, database: WithDatabase) -> Tenant:
    """Change the name or the limits of a tenant; every process knows them within seconds."""
    with database.session() as session:
        return Tenant.model_validate(found(access.change_tenant(session, tenant_id, body.changes)))


@router.post(
    "/{tenant_id}/keys",
    status_code=status.HTTP_201_CREATED,
    responses=refusals(*BODY_REFUSALS, 404, 503),
    openapi_extra=ADMIN,
)
def create_key(tenant_id: TenantId, body: KeyRequest, response: Response, database: WithDatabase) -> NewApiKey:
    """Create a key of another tenant, such as its first one. Only this response has the key itself."""
    with database.session() as session:
        found(access.read_tenant(session, tenant_id))
        made = access.create_key(session, tenant_id, **dict(body))
    return show_new(made, response)
