"""The health of the service as the API describes it."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, BaseModel, Field

from shared.domain.roles import WorkerRole

PartName = Literal["database", "schema", "orchestrator", "broker"] | WorkerRole


class Liveness(BaseModel):
    """Confirmation that the process answers."""

    status: Literal["live"] = Field("live", description="Always `live`.")


class UnfitWorker(BaseModel):
    """A worker that takes no commands."""

    name: str = Field(description="Name of the worker process.")
    code: str = Field(description="Code of the error that made it unfit.")
    detail: str = Field(description="Explanation in one sentence.")
    since: AwareDatetime = Field(description="Time at which it became unfit.")


class LockHolder(BaseModel):
    """A session of the database that has held locks on reasoning state for more than 5 s."""

    pid: int = Field(description="Process of the server that serves it; `pg_terminate_backend` ends it.")
    application: str = Field(description="Its `application_name`; empty if it has none.")
    user: str = Field(description="User of the database.")
    state: str = Field(description="What it does, for example `idle in transaction`.")
    since: AwareDatetime = Field(description="Time at which its transaction began.")


class Part(BaseModel):
    """State of one part of the service."""

    name: PartName = Field(description="Name of the part.")
    is_up: bool = Field(description="Whether the part is up.")
    detail: str = Field(description="Explanation in one sentence.")
    models: list[str] = Field(
        default_factory=list, description="Models that its processes run, as far as it has any that are up."
    )
    unfit: list[UnfitWorker] = Field(
        default_factory=list, description="Workers of the role that send heartbeats and take no commands."
    )
    clocks_ahead_s: dict[str, float] = Field(
        default_factory=dict,
        description="Seconds by which the clocks of workers are ahead of the database's, by their names; negative if "
        "behind. Only those that are off by more than 5.",
    )
    waiting: int = Field(0, description="Number of problems that wait for the role.")
    lock_holders: list[LockHolder] = Field(
        default_factory=list,
        description="Sessions of the database that have held locks for more than 5 s. The problems that they have "
        "locked make no progress until they end.",
    )


class Readiness(BaseModel):
    """State of the service."""

    status: Literal["ready", "degraded", "unavailable"] = Field(
        description="`ready`: every part is up. `degraded`: submissions are accepted, but problems wait for a part "
        "that is down. `unavailable`: submissions are refused."
    )
    down: list[PartName] = Field(description="Names of the parts that are down.")
    parts: list[Part] = Field(description="All parts of the service.")
    service_version: str = Field(description="Version of the API process.")
    note: str | None = Field(
        None, description="That the bundled demonstration models run, and what they solve; null if none of them runs."
    )
