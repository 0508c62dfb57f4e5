"""The health of the service."""

from __future__ import annotations

from pydantic import AwareDatetime, Field

from trim_client.models.base import Model
from trim_client.models.values import ServiceStatus


class Liveness(Model):
    """Confirmation that the process answers."""

    status: str


class UnfitWorker(Model):
    """A worker that takes no commands."""

    name: str
    code: str
    detail: str
    since: AwareDatetime


class LockHolder(Model):
    """A session of the database that has held locks on reasoning state for more than 5 s."""

    pid: int
    application: str
    user: str
    state: str
    since: AwareDatetime


class Part(Model):
    """State of one part of the service."""

    name: str
    is_up: bool
    detail: str
    """Explanation in one sentence."""
    models: list[str] = Field(default_factory=list)
    unfit: list[UnfitWorker] = Field(default_factory=list)
    clocks_ahead_s: dict[str, float] = Field(default_factory=dict)
    waiting: int = 0
    lock_holders: list[LockHolder] = Field(default_factory=list)


class Readiness(Model):
    """State of the service."""

    status: ServiceStatus
    down: list[str]
    """Names of the parts that are down."""
    parts: list[Part]
    service_version: str | None = None
    note: str | None = None

    @property
    def accepts_submissions(self) -> bool:
        """Whether the service accepts submissions."""
        return self.status != "unavailable"
