"""Roles that are away: none of their workers is both fit and sends heartbeats."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from shared.domain.fitness import Unfit
from shared.domain.roles import WorkerRole

NO_HEARTBEAT = "no_heartbeat"
"""Code of a role that is away because its workers are silent, or because none has ever been seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """A role that a problem knows to be away."""

    role: WorkerRole
    since: datetime
    is_bridged: bool = False
    """Whether the problem goes on without the role, as its options say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwayRole:
    """A role that is away, and why."""

    role: WorkerRole
    since: datetime | None
    """When its last fit worker sent a heartbeat or became unfit; `None` if none has been seen."""
    code: str
    """Code of the error that made a worker unfit, or `no_heartbeat`."""
    detail: str
    """One sentence for people: what is wrong, and what to change."""


class Heartbeat(Protocol):
    """The newest heartbeat of a process."""

    @property
    def name(self) -> str:
        """Name of the process."""

    @property
    def role(self) -> str:
        """Its role."""

    @property
    def seen_at(self) -> datetime:
        """When it was sent."""

    @property
    def unfit(self) -> Unfit | None:
        """Why it takes no commands, if it takes none."""


def find_away(heartbeats: Iterable[Heartbeat], *, now: datetime, silence_s: float) -> dict[WorkerRole, AwayRole]:
    """Find the roles of which no worker is fit and has sent a heartbeat in the last `silence_s` seconds."""
    known = list(heartbeats)
    away: dict[WorkerRole, AwayRole] = {}
    for role in WorkerRole:
        workers = [each for each in known if each.role == role]
        beating = [each for each in workers if (now - each.seen_at).total_seconds() <= silence_s]
        if all(each.unfit is not None for each in beating):
            away[role] = _describe(role, workers, beating)
    return away


def _describe(role: WorkerRole, workers: list[Heartbeat], beating: list[Heartbeat]) -> AwayRole:
    """Describe an absence by its newest unfit worker; if all are silent, by the one with the last heartbeat."""
    if not workers:
        return AwayRole(
            role=role, since=None, code=NO_HEARTBEAT, detail=f"No worker of the role {role} was seen; start one."
        )
    since = max(each.unfit.since if each.unfit else each.seen_at for each in workers)
    reasons = [each.unfit for each in beating if each.unfit]
    if reasons:
        unfit = max(reasons, key=lambda each: each.since)
        return AwayRole(role=role, since=since, code=unfit.code, detail=unfit.detail)
    last = max(workers, key=lambda each: each.seen_at)
    detail = f"No worker of the role {role} sends heartbeats; the last one was {last.name}."
    return AwayRole(role=role, since=since, code=NO_HEARTBEAT, detail=detail)
