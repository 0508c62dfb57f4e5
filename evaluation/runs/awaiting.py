"""Reports what the problems of a run wait for while none of them ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

IDLE_LOOKS: Final = 20
"""Looks at the batches of a run, without an end between them, after which the service is asked what it waits for."""


class Awaiting:
    """Reads from the readiness of the service which roles its problems wait for, and tells of each change once."""

    def __init__(self, read: Callable[[], Mapping[str, Any] | None], tell: Callable[[str], object]) -> None:
        """Begin.

        Args:
            read: Reads the readiness of the service; `None` while it does not answer.
            tell: Receives each sentence.
        """
        self._read, self._tell = read, tell
        self._ended, self._idle = 0, 0
        self._told: frozenset[str] = frozenset()

    def look(self, ended: int) -> None:
        """Take the number of problems that have ended, and tell what the others wait for if it stays the same."""
        self._idle = self._idle + 1 if ended == self._ended else 0
        self._ended = ended
        if (not self._told and self._idle < IDLE_LOOKS) or (readiness := self._read()) is None:
            return
        waited = {part["name"]: part["detail"] for part in readiness["parts"] if part["waiting"]}
        for role in sorted(waited.keys() - self._told):
            self._tell(f"Problems wait for {role}: {waited[role]}")
        for role in sorted(self._told - waited.keys()):
            self._tell(f"No problem waits for {role} any more.")
        self._told = frozenset(waited)
