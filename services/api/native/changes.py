"""The endpoint that lists changes."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from services.api.dependencies import Cursor, Limit, RootPath, WithDatabase, WithTenant
from services.api.errors import refusals
from services.api.presenting import show_change
from services.api.route import CheckedRoute
from services.api.schemas.problems import ChangePage
from shared.store.change_feed import list_changes

router = APIRouter(prefix="/v1/changes", tags=["problems"], route_class=CheckedRoute)


@router.get("", responses=refusals(410, 503))
def list_(  # noqa: PLR0917 - FastAPI passes arguments by name
    database: WithDatabase,
    tenant_id: WithTenant,
    root_path: RootPath,
    start: Annotated[
        Literal["oldest", "now"],
        Query(
            description="Where to begin without a cursor: with the oldest change that is kept, or after all of them."
        ),
    ] = "oldest",
    cursor: Cursor = None,
    limit: Limit = 200,
) -> ChangePage:
    """List the submissions and the ends of problems, so that a reader who keeps the cursor misses none.

    Each problem has two changes. They come in the order of transactions, and only once no transaction before them is
    open, which may delay them. Keep `next_cursor`, which is never null, for the next request. A cursor is valid for
    seven days; an older one gets status 410.
    """
    with database.session() as session:
        page = list_changes(session, tenant_id, limit=limit, cursor=cursor, from_now=start == "now")
    return ChangePage(items=[show_change(each, root_path) for each in page.items], next_cursor=page.next_cursor)
