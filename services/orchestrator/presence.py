"""Which roles are away, as far as this orchestrator can tell."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from shared.domain.absences import find_away
from shared.domain.roles import WorkerRole
from shared.store.port import SeenProcess, Transaction

RolesRead = Callable[[Transaction, datetime], Mapping[WorkerRole, datetime] | None]
"""Reads which roles are away, since when; `None` if it cannot be told now."""


class Listening:
    """For how long this orchestrator has heard every heartbeat.

    Heartbeats reach the store through the events queue. While this orchestrator is cut off from a server, or has not
    worked off the queue, a heartbeat may be old although its worker lives. So silence counts only up to the last
    moment at which the queue was empty, and only after an uninterrupted span as long as the silence itself.
    """

    def __init__(self, *, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._since: float | None = None
        self._until = 0.0

    def caught_up(self) -> None:
        """Note that all events that had arrived are applied."""
        with self._lock:
            self._until = self._monotonic()
            if self._since is None:
                self._since = self._until

    def interrupted(self) -> None:
        """Note that a server is away: what is silent from now on may live."""
        with self._lock:
            self._since = None

    def heard_ago_s(self, *, for_s: float) -> float | None:
        """Return how long ago everything was heard, if that was so for at least some seconds; otherwise `None`."""
        with self._lock:
            if self._since is None or self._until - self._since < for_s:
                return None
            return self._monotonic() - self._until


class Presence:
    """Reads which roles are away, and counts the workers of each.

    A role of which no worker was ever seen is away since this was noticed first.
    """

    def __init__(self, listening: Listening, *, silence_s: float) -> None:
        self._listening = listening
        self._silence_s = silence_s
        self._missed: dict[WorkerRole, datetime] = {}
        self.completing: Mapping[WorkerRole, int] = {}
        """Number of workers of each role of which all complete prefixes, as of the last call."""

    def __call__(self, transaction: Transaction, now: datetime) -> Mapping[WorkerRole, datetime] | None:
        """Read the roles that are away, since when; `None` if this orchestrator has not listened for long enough."""
        workers = transaction.workers()
        self.completing = _count_completing(workers, now=now, silence_s=self._silence_s)
        ago_s = self._listening.heard_ago_s(for_s=self._silence_s)
        if ago_s is None:
            return None
        heard_at = now - timedelta(seconds=ago_s)
        away = find_away(workers, now=heard_at, silence_s=self._silence_s)
        self._missed = {role: self._missed.get(role, now) for role in away}
        return {role: each.since or self._missed[role] for role, each in away.items()}


def _count_completing(workers: Sequence[SeenProcess], *, now: datetime, silence_s: float) -> dict[WorkerRole, int]:
    """Count the workers that send heartbeats, fit or not, of each role of which all complete prefixes."""
    beating = [each for each in workers if (now - each.seen_at).total_seconds() <= silence_s]
    counted = {role: [each.completes_prefixes for each in beating if each.role == role] for role in WorkerRole}
    return {role: len(complete) for role, complete in counted.items() if complete and all(complete)}
