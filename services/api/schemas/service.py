"""The service itself as the API describes it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from shared.domain.roles import WorkerRole

PartName = Literal["database", "schema", "orchestrator", "broker"] | WorkerRole


class PolicyDescription(BaseModel):
    """A policy that a submission can name."""

    name: str = Field(description="Name of the policy.")
    revision: int = Field(description="Revision of the policy's code.")
    description: str = Field(description="Summary of what the policy decides.")
    parameters: dict[str, Any] = Field(description="JSON schema of the policy's parameters.")


class Liveness(BaseModel):
    """Confirmation that the process answers."""

    status: Literal["live"] = Field("live", description="Always `live`.")


class Part(BaseModel):
    """State of one part of the service."""

    name: PartName = Field(description="Name of the part.")
    is_up: bool = Field(description="Whether the part is up.")
    detail: str = Field(description="Explanation in one sentence.")


class Readiness(BaseModel):
    """State of the service."""

    status: Literal["ready", "degraded", "unavailable"] = Field(
        description="`ready`: every part is up. `degraded`: submissions are accepted, but problems wait for a part "
        "that is down. `unavailable`: submissions are refused."
    )
    down: list[PartName] = Field(description="Names of the parts that are down.")
    parts: list[Part] = Field(description="All parts of the service.")
