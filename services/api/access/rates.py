"""How many requests each tenant has sent in the current minute.

Every process counts its requests in memory, and adds them to a row of the tenant once a second, from which it learns
what the others have counted. So a request costs no statement. A tenant may exceed its limit by what the other processes
let in within a second.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from shared.store.quotas import MINUTE_S, Counted, Totals


@dataclass(frozen=True, slots=True)
class Quota:
    """What a tenant has left of its limit after a request."""

    limit: int
    left: int
    is_granted: bool
    resets_in_s: int
    """Whole seconds until the next minute begins, from 1."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The header fields `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11)."""
        return {
            "RateLimit-Policy": f'"requests";q={self.limit};w={MINUTE_S}',
            "RateLimit": f'"requests";r={self.left};t={self.resets_in_s}',
        }


@dataclass(slots=True)
class _Row:
    """Requests of one tenant in one minute."""

    minute: int
    known: int = 0
    """Requests that are in the database, of all processes."""
    pending: int = 0
    """Requests of this process that are not."""


class Rates:
    """Counts requests. Belongs to the thread of the event loop."""

    def __init__(self, *, time_s: Callable[[], float] = time.time) -> None:
        """Take the clock, in seconds since 1970."""
        self._time_s = time_s
        self._ahead_s = 0.0
        """Seconds by which the database's clock is ahead: minutes are the database's."""
        self._rows: dict[UUID, _Row] = {}

    def take(self, tenant_id: UUID, limit: int) -> Quota:
        """Count a request, unless the tenant has no request left."""
        now_s = self._time_s() + self._ahead_s
        minute = int(now_s // MINUTE_S)
        row = self._rows.get(tenant_id)
        if row is None or row.minute < minute:
            row = self._rows[tenant_id] = _Row(minute)
        is_granted = row.known + row.pending < limit
        row.pending += is_granted
        left = max(limit - row.known - row.pending, 0)
        resets_in_s = max(math.ceil((row.minute + 1) * MINUTE_S - now_s), 1)
        return Quota(limit, left, is_granted, resets_in_s)

    def pending(self) -> list[Counted]:
        """Return what the database does not have yet."""
        return [Counted(each, row.minute, row.pending) for each, row in self._rows.items() if row.pending]

    def learn(self, sent: Iterable[Counted], totals: Totals, *, sent_at_s: float) -> None:
        """Note that the database has what was sent, and what other processes have counted.

        Args:
            sent: What was sent.
            totals: What the database has now.
            sent_at_s: When that was, by the clock of this process.
        """
        self._ahead_s = totals.now_s - (sent_at_s + self._time_s()) / 2
        for each in sent:
            row = self._rows[each.tenant_id]
            if row.minute == each.minute:
                row.pending -= each.requests
        for total in totals.counts:
            row = self._rows[total.tenant_id]
            if row.minute < total.minute:
                self._rows[total.tenant_id] = _Row(total.minute, known=total.requests)
            elif row.minute == total.minute:
                row.known = total.requests
