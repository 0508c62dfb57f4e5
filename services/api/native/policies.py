"""Endpoint of the policies that a submission can name."""

from __future__ import annotations

import inspect

from fastapi import APIRouter

from services.api.errors import RESPONSES
from services.api.schemas.policies import PolicyDescription
from shared.policies.registry import POLICIES

router = APIRouter(tags=["policies"], responses=RESPONSES)


@router.get("/v1/policies")
def policies() -> list[PolicyDescription]:
    """List the policies that a submission can name."""
    return [
        PolicyDescription(
            name=name,
            revision=kind.revision,
            description=(inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " "),
            parameters=kind.model_json_schema(),
        )
        for name, kind in sorted(POLICIES.items())
    ]
