"""Endpoints of the service's health."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response, status

from services.api.access.callers import OPEN, caller_of
from services.api.dependencies import WithDatabase, WithSettings
from services.api.errors import refusals
from services.api.lanes import READINESS
from services.api.readiness import read_readiness, summarise
from services.api.schemas.health import Liveness, Readiness
from shared.domain.scopes import Scope

# Not with `CheckedRoute`: load balancers and monitors add parameters.
router = APIRouter(tags=["service"])


@router.get("/health/live", responses=refusals(has_input=False), openapi_extra=OPEN)
async def live() -> Liveness:
    """Confirm that the process answers."""
    return Liveness()


@router.get(
    "/health/ready",
    responses={503: {"model": Readiness, "description": "Submissions are refused."}, **refusals(401, has_input=False)},
    openapi_extra=OPEN,
)
async def ready(request: Request, response: Response, database: WithDatabase, settings: WithSettings) -> Readiness:
    """Report which parts of the service are down, with status 503 if submissions are refused.

    Where keys are required, the details need one with the scope `read`.
    """
    readiness = await READINESS.run(partial(read_readiness, database, settings))
    if readiness.status == "unavailable":
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    caller = caller_of(request.scope)
    return readiness if caller is not None and Scope.READ in caller.scopes else summarise(readiness)
