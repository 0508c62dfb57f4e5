"""The health of the service as the API describes it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from shared.domain.roles import WorkerRole

PartName = Literal["database", "schema", "orchestrator", "broker"] | WorkerRole


class Liveness(BaseModel):
    """Confirmation that the process answers."""

    status: Literal["live"] = Field("live", description="Always `live`.")


class Part(BaseModel):
    """State of one part of the service."""

    name: PartName = Field(description="Name of the part.")
    is_up: bool = Field(description="Whether the part is up.")
    detail: str = Field(description="Explanation in one sentence.")
    models: list[str] = Field(
        default_factory=list, description="Models that its processes run, as far as it has any that are up."
    )


class Readiness(BaseModel):
    """State of the service."""

    status: Literal["ready", "degraded", "unavailable"] = Field(
        description="`ready`: every part is up. `degraded`: submissions are accepted, but problems wait for a part "
        "that is down. `unavailable`: submissions are refused."
    )
    down: list[PartName] = Field(description="Names of the parts that are down.")
    parts: list[Part] = Field(description="All parts of the service.")
