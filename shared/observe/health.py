"""The health of a process: whether its loops make progress, and which of the things that it needs are there."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from shared.clock import SYSTEM_CLOCK, Clock
from shared.log import get_logger
from shared.observe import metrics

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Something that a process needs to do its work."""

    name: str
    is_met: bool
    detail: str
    """One sentence for people: what is there, or what to change."""
    since: datetime
    """When it was met, or ceased to be."""


class LoopBeat:
    """The beat of one loop: the loop calls `beat` in every round, and is stalled once it has not for some seconds."""

    def __init__(self, name: str, *, limit_s: float, clock: Clock) -> None:
        self.name = name
        self._limit_s = limit_s
        self._clock = clock
        self._at = math.inf

    def beat(self) -> None:
        """Record that the loop makes progress."""
        self._at = self._clock.monotonic()

    def pause(self) -> None:
        """Expect no beat until the next one: the loop waits, or has ended as it should."""
        self._at = math.inf

    @property
    def silence_s(self) -> float:
        """Seconds since the last beat; 0 while none is expected."""
        return max(0.0, self._clock.monotonic() - self._at)

    @property
    def is_stalled(self) -> bool:
        """Whether the loop has not made progress for too long."""
        return self.silence_s > self._limit_s


class Health:
    """The conditions and the loops of one process. Safe to use from many threads."""

    def __init__(self, *, role: str, node: str, conditions: Sequence[str], clock: Clock = SYSTEM_CLOCK) -> None:
        """Begin with no condition met.

        Args:
            role: Role of the process.
            node: Name of the process.
            conditions: Names of the conditions that make it ready.
            clock: The clock.
        """
        self.role = role
        self.node = node
        self._clock = clock
        self._changes = threading.Lock()
        self._defect: str | None = None
        self._loops: list[LoopBeat] = []
        now = clock.now()
        self._conditions = {
            name: Condition(name=name, is_met=False, detail="The process has just started.", since=now)
            for name in conditions
        }
        metrics.LIVE.set_function(lambda: not self.defects)
        self._expiry = dict.fromkeys(conditions, math.inf)
        metrics.READY.set_function(lambda: self.is_ready)
        for name in conditions:
            metrics.CONDITION_MET.labels(name).set_function(partial(self._is_met, name))

    @property
    def conditions(self) -> list[Condition]:
        """All conditions, in the order of their declaration."""
        with self._changes:
            return [self._current(name) for name in self._conditions]

    @property
    def is_ready(self) -> bool:
        """Whether every condition is met."""
        return all(each.is_met for each in self.conditions)

    @property
    def defects(self) -> list[str]:
        """Reasons why the process makes no progress, as sentences; none if it does."""
        stalled = [
            f"The loop {each.name} has not made progress for {each.silence_s:.0f} s."
            for each in list(self._loops)
            if each.is_stalled
        ]
        return stalled if self._defect is None else [self._defect, *stalled]

    def meet(self, name: str, detail: str, *, valid_s: float = math.inf) -> None:
        """Record that a condition is met.

        Args:
            name: Name of the condition.
            detail: One sentence for people.
            valid_s: Seconds after which it counts as not met if nothing is recorded again: what asks may hang, as a
                server does that keeps its connections and does not answer.
        """
        self._expiry[name] = self._clock.monotonic() + valid_s
        self._set(name, detail, is_met=True)

    def miss(self, name: str, detail: str) -> None:
        """Record that a condition is not met."""
        self._set(name, detail, is_met=False)

    def break_down(self, detail: str) -> None:
        """Record that the process cannot go on, and must be replaced."""
        self._defect = detail

    def loop(self, name: str, *, limit_s: float) -> LoopBeat:
        """Watch a loop from its first beat on.

        Args:
            name: Name of the loop.
            limit_s: Seconds without a beat after which it counts as stalled.
        """
        beat = LoopBeat(name, limit_s=limit_s, clock=self._clock)
        self._loops.append(beat)
        return beat

    def _is_met(self, name: str) -> bool:
        with self._changes:
            return self._current(name).is_met

    def _current(self, name: str) -> Condition:
        known = self._conditions[name]
        late_s = self._clock.monotonic() - self._expiry[name]
        if not known.is_met or late_s <= 0:
            return known
        since = self._clock.now() - timedelta(seconds=late_s)
        return replace(known, is_met=False, detail="It was there, and has not answered since.", since=since)

    def _set(self, name: str, detail: str, *, is_met: bool) -> None:
        with self._changes:
            known = self._conditions[name]
            has_changed = known.is_met is not is_met
            since = self._clock.now() if has_changed else known.since
            self._conditions[name] = Condition(name=name, is_met=is_met, detail=detail, since=since)
        if has_changed and is_met:
            _log.info("condition_met", condition=name, detail=detail)
        elif has_changed:
            _log.warning("condition_lost", condition=name, detail=detail)
