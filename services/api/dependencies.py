"""Dependencies of endpoints: the app's resources, and parameters that several endpoints share."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Header, Path, Query, Request

from services.api.access.callers import Caller, caller_of, check_scope
from services.api.access.errors import DefaultTenantOnly
from services.api.following import Following
from services.api.openai.solving import Solving
from services.api.waiting import Waiting
from shared.settings import Settings
from shared.store.database import Database
from shared.store.tables import DEFAULT_TENANT

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="Key that makes a retry safe: the same key and body return the same result.",
    ),
]
Cursor = Annotated[
    str | None,
    Query(max_length=500, description="`next_cursor` of the previous page; valid only for the same listing."),
]
ProblemId = Annotated[UUID, Path(description="Id of the problem.")]
BatchId = Annotated[UUID, Path(description="Id of the batch.")]
Limit = Annotated[int, Query(ge=1, le=200, description="Maximum number of items to return.")]


# Asynchronous, because the framework would run each of them in a thread.


async def get_database(request: Request) -> Database:
    """Return the app's database."""
    database: Database = request.app.state.database
    return database


async def get_settings(request: Request) -> Settings:
    """Return the app's settings."""
    settings: Settings = request.app.state.settings
    return settings


async def get_root_path(request: Request) -> str:
    """Return the path under which clients reach the API; it precedes every link."""
    root_path: str = request.scope["root_path"]
    return root_path


async def get_waiting(request: Request) -> Waiting:
    """Return the clients that wait for problems."""
    waiting: Waiting = request.app.state.waiting
    return waiting


async def get_following(request: Request) -> Following:
    """Return the clients that follow problems."""
    following: Following = request.app.state.following
    return following


async def get_solving(request: Request) -> Solving:
    """Return the requests that wait for solutions."""
    solving: Solving = request.app.state.solving
    return solving


async def check_needed_scope(request: Request) -> None:
    """Check that the caller may use the route; every route has this dependency."""
    check_scope(request.scope)


async def get_caller(request: Request) -> Caller:
    """Return who sends the request."""
    caller = caller_of(request.scope)
    assert caller is not None, "the path needs no key, so its endpoint takes no caller"
    return caller


async def get_tenant(request: Request) -> UUID:
    """Return the tenant that sends the request."""
    return (await get_caller(request)).tenant_id


WithDatabase = Annotated[Database, Depends(get_database)]
WithSettings = Annotated[Settings, Depends(get_settings)]
WithCaller = Annotated[Caller, Depends(get_caller)]
WithTenant = Annotated[UUID, Depends(get_tenant)]
RootPath = Annotated[str, Depends(get_root_path)]
WithWaiting = Annotated[Waiting, Depends(get_waiting)]
WithFollowing = Annotated[Following, Depends(get_following)]
WithSolving = Annotated[Solving, Depends(get_solving)]


async def check_is_operator(tenant_id: WithTenant) -> None:
    """Check that the caller belongs to the default tenant.

    Raises:
        DefaultTenantOnly: It does not; the same for tenants that exist and others.
    """
    if tenant_id != DEFAULT_TENANT:
        raise DefaultTenantOnly
