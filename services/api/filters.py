"""Conditions on problems, as query parameters of the endpoints that list or export problems."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query
from pydantic import AwareDatetime

from shared.domain.status import Status, StopReason
from shared.domain.verdict import Verdict
from shared.store.finding import ProblemFilter

_TIME = "for example `2026-11-30T12:00:00Z`. A `+` in it has to be written `%2B`."


async def get_filter(  # noqa: PLR0917 - FastAPI passes arguments by name
    status: Annotated[
        list[Status] | None, Query(description="Status of the problems. Repeat the parameter for one of several.")
    ] = None,
    policy: Annotated[str | None, Query(max_length=80, pattern="^[a-z0-9-]+$", description="Policy that decides.")] = (
        None
    ),
    arm: Annotated[str | None, Query(max_length=40, pattern="^[a-z0-9_-]+$", description="Arm of the problems.")] = (
        None
    ),
    batch_id: Annotated[UUID | None, Query(description="Batch of the problems.")] = None,
    verdict: Annotated[Verdict | None, Query(description="Verdict on the answers.")] = None,
    stop_reason: Annotated[StopReason | None, Query(description="Reason why the solutions end.")] = None,
    escalated: Annotated[
        bool | None, Query(description="Whether at least one step of the problems was escalated.")
    ] = None,
    created_after: Annotated[
        AwareDatetime | None, Query(description=f"Earliest time of the submission, {_TIME}")
    ] = None,
    created_before: Annotated[
        AwareDatetime | None, Query(description=f"Time before which the problems were submitted, {_TIME}")
    ] = None,
) -> ProblemFilter:
    """Collect the conditions."""
    return ProblemFilter(
        statuses=tuple(status or ()),
        policy=policy,
        arm=arm,
        batch_id=batch_id,
        verdict=verdict,
        stop_reason=stop_reason,
        has_escalations=escalated,
        created_after=created_after,
        created_before=created_before,
    )


WithFilter = Annotated[ProblemFilter, Depends(get_filter)]
