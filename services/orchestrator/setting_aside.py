"""Events that wait until their problem is free: another session has locked its row, so they cannot be applied yet.

They stay unacknowledged. Events of other problems pass them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from services.orchestrator.receiving import Heard
from shared.backoff import Backoff
from shared.log import about, get_logger

LOCKED: Final = Backoff(first_s=0.01, limit_s=0.5)
"""Delays between attempts on a locked problem. Another orchestrator holds it for milliseconds, and an attempt does not
wait for the lock."""

REFUSED: Final = Backoff(first_s=1.0, limit_s=30.0)
"""Delays between attempts on a problem whose transaction the database refuses: it may have waited for a lock before."""

RETRIED: Final = 64
"""Maximum number of problems whose events one transaction tries again."""

LOGGED_ATTEMPT: Final = 8
"""Attempt that is logged. Earlier ones are conflicts between orchestrators, which end by themselves."""

_log = get_logger(__name__)


@dataclass(slots=True)
class _Waiting:
    """The events of one problem, in the order of their arrival."""

    events: list[Heard] = field(default_factory=list)
    attempt: int = 0
    retry_at: float = 0.0


class SetAside:
    """The events that one orchestrator has set aside. For one thread."""

    def __init__(self, *, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._waiting: dict[UUID | None, _Waiting] = {}

    def __len__(self) -> int:
        """Count the events."""
        return sum(len(each.events) for each in self._waiting.values())

    @property
    def due_in_s(self) -> float:
        """Seconds until events are to be tried again; infinite if none is set aside."""
        earliest = min((each.retry_at for each in self._waiting.values()), default=math.inf)
        return max(0.0, earliest - self._monotonic())

    def join(self, heard: Iterable[Heard]) -> list[Heard]:
        """Return what is to be applied now: events that are due again, and new ones of problems that do not wait.

        Nothing is forgotten before `settle`.
        """
        now = self._monotonic()
        due = sorted((each.retry_at, key) for key, each in self._waiting.items() if each.retry_at <= now)[:RETRIED]
        again = [key for _, key in due]
        waiting = self._waiting.keys() - set(again)
        old = [event for key in again for event in self._waiting[key].events]
        return old + [each for each in heard if each.problem_id not in waiting]

    def settle(self, heard: Sequence[Heard], *, tried: Sequence[Heard], waits: Mapping[UUID, Backoff]) -> list[Heard]:
        """Set aside what could not be applied, and forget what was.

        Args:
            heard: New events.
            tried: What `join` returned for them.
            waits: The problems of these that could not be changed, each with its delays.

        Returns:
            The events that were applied.
        """
        done = [each for each in tried if each.problem_id not in waits]
        for each in done:
            self._waiting.pop(each.problem_id, None)
        for problem_id, backoff in waits.items():
            self._postpone(problem_id, backoff)
        for each in heard:
            if each.problem_id in self._waiting:
                self._waiting[each.problem_id].events.append(each)
        return done

    def redeliver(self) -> None:
        """Have the commands of all events published again: a connection may have broken after a commit."""
        for each in self._waiting.values():
            each.events = [replace(one, delivery=replace(one.delivery, is_redelivered=True)) for one in each.events]

    def _postpone(self, problem_id: UUID, backoff: Backoff) -> None:
        waiting = self._waiting.setdefault(problem_id, _Waiting())
        waiting.retry_at = self._monotonic() + backoff.delay_s(waiting.attempt)
        waiting.attempt += 1
        if waiting.attempt == LOGGED_ATTEMPT:
            with about(problem_id):
                _log.warning("problem_locked", detail="Another session has locked its row; its events wait.")
