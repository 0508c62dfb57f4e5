"""Endpoints of the service's health."""

from __future__ import annotations

from fastapi import APIRouter, Response, status

from services.api.dependencies import WithDatabase, WithSettings
from services.api.errors import RESPONSES
from services.api.readiness import read_readiness
from services.api.schemas.health import Liveness, Readiness

router = APIRouter(tags=["service"], responses=RESPONSES)


@router.get("/health/live")
def live() -> Liveness:
    """Confirm that the process answers."""
    return Liveness()


@router.get("/health/ready", responses={503: {"model": Readiness, "description": "Submissions are refused."}})
def ready(response: Response, database: WithDatabase, settings: WithSettings) -> Readiness:
    """Report which parts of the service are down, with status 503 if submissions are refused."""
    readiness = read_readiness(database, settings)
    if readiness.status == "unavailable":
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return readiness
