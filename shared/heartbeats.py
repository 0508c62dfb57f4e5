"""Until when a process counts as up after its last heartbeat."""

from __future__ import annotations

from typing import Final

from shared.settings import Settings

MISSED_BEATS: Final = 3
"""Number of heartbeats that a process may miss before it counts as down."""


def silence_s(settings: Settings) -> float:
    """Return the seconds without a heartbeat after which a process counts as down."""
    return MISSED_BEATS * settings.heartbeat_s
