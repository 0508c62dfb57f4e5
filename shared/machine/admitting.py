"""Which queued problems may start while roles are away, and how many."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from shared.domain.options import Bridging, Plan
from shared.domain.roles import WorkerRole
from shared.machine.state import first_roles, possible_roles

MAX_WINDOWS: Final = 4
"""Maximum number of running problems, in windows: one that goes on, and the others wait for roles that are away."""


def room_of(window: int, *, running: int, waiting: int) -> int:
    """Return how many problems may start.

    Args:
        window: Maximum number of problems that go on at the same time.
        running: Number of running problems.
        waiting: Number of those that wait for a role.
    """
    return max(0, min(window - (running - waiting), MAX_WINDOWS * window - running))


def missed_roles(plan: Plan, away: Collection[WorkerRole], *, is_crowded: bool) -> frozenset[WorkerRole]:
    """Return the absent roles that keep a queued problem from its start, unless it goes on without them.

    Args:
        plan: Its plan.
        away: The roles that are away.
        is_crowded: Whether a whole window of problems waits already. Then a role that it may need later counts too.
    """
    needed = possible_roles(plan) if is_crowded else first_roles(plan)
    return needed.intersection(away)


def may_start(plan: Plan, bridging: Bridging, away: Collection[WorkerRole], *, is_crowded: bool) -> bool:
    """Tell whether a queued problem may start: it would not wait, or only until its patience is over."""
    return all(bridging.bridges(role, plan) for role in missed_roles(plan, away, is_crowded=is_crowded))
