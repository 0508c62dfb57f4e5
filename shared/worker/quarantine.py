"""Running suspects apart: commands that were lost with their worker so often that they may be what ends it.

A worker that dies loses all its commands, and one of them may be the reason. So the more often a command was lost, the
fewer others run beside it. The innocent ones of a crash are carried out within a few rounds. The guilty one is lost
again although it ran alone. A broker counts what is lost, and not with what else. So before a command runs alone, it is
published again with a mark, and what is lost with the mark was lost alone.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from shared.log import get_logger

SUSPECT_AT: Final = 2
"""Losses from which a command runs in a small group, and beside no others."""

ALONE_AT: Final = 3
"""Losses from which it runs alone."""

GUILTY_AT: Final = 2
"""Losses while it ran alone from which it is not run any more."""

QUIET_LOOKS: Final = 2
"""Looks in a row that find nothing open before the next stage. Between the two, Celery's loop has sent the
acknowledgements of what was settled before the first. A search with a suspect also ends after them, if no command
passed."""

SEARCH_LOOKS: Final = 5
"""Looks in a row without any command after which a search without any suspect ends."""

REMEMBERED: Final = 100_000
"""Commands after which a search ends in any case: it remembers all of them, to know one that comes again."""

_log = get_logger(__name__)


def group_size(losses: int, concurrency: int) -> int:
    """Return how many commands a process may run at the same time as one that was lost so often, this one included.

    The square root of the concurrency makes as many groups as a group has members, so that few rounds tell all apart.
    """
    if losses < SUSPECT_AT:
        return concurrency
    return 1 if losses >= ALONE_AT else max(1, math.isqrt(concurrency))


@dataclass(frozen=True, slots=True, eq=False)
class Suspect:
    """A command that is to run apart."""

    identity: Hashable
    losses: int
    begin: Callable[[], object]
    put_back: Callable[[], object]
    """Publishes it again without the mark."""
    put_back_marked: Callable[[], object]
    """Publishes it again with the mark that it runs alone next."""
    is_marked: bool
    """Whether it came with the mark: if it is lost from now on, it was lost alone."""
    is_stale: Callable[[], bool]
    """Tells whether the connection that delivered it is lost: another worker has it by now."""


Stage = Literal["open", "clearing", "searching", "closing", "running"]


class Quarantine:
    """Has suspects run apart in one worker process. Safe to use from many threads.

    A suspect that comes while other commands are open goes back to the queue at once: if the worker dies of another
    command, that must not count against it. The stages from then on:

    - clearing: the worker takes no commands until all that it had taken are settled;
    - searching: it takes commands, and gathers suspects. All others go back. A suspect that is to run alone goes back
      with a mark, and is gathered when it comes again. The worker has seen the whole queue once a command comes for the
      second time;
    - closing: it takes no commands until what it puts back is settled;
    - running: the group runs, until all of it is settled.
    """

    def __init__(self, concurrency: int, *, open_count: Callable[[], int], on_change: Callable[[], object]) -> None:
        """Begin without suspects.

        Args:
            concurrency: Maximum number of commands that the process runs at the same time.
            open_count: Counts the commands that are taken and not settled, apart from the group before it runs.
            on_change: Is called whenever the process may have begun or ceased to take commands.
        """
        self._concurrency = concurrency
        self._open_count = open_count
        self._on_change = on_change
        self._lock = threading.Lock()
        self._stage: Stage = "open"
        self._group: list[Suspect] = []
        self._passed: set[Hashable] = set()
        """What came during the search."""
        self._has_marked = False
        """Whether a suspect went back with the mark during the search: only one that has it joins the group then."""
        self._looks = 0

    @property
    def takes_commands(self) -> bool:
        """Whether the worker takes commands."""
        return self._stage in ("open", "searching")

    @property
    def is_open(self) -> bool:
        """Whether the worker runs commands as usual."""
        return self._stage == "open"

    def admits(self, identity: Hashable) -> bool:
        """Tell whether a command that is no suspect runs now; otherwise it goes back to the queue."""
        with self._lock:
            if self._stage == "searching":
                self._note_passed(identity)
            is_admitted, takes_commands = self._stage == "open", self.takes_commands
        if not takes_commands:
            self._on_change()
        return is_admitted

    def receive(self, suspect: Suspect) -> None:
        """Have a suspect join the group that runs next, or go back to the queue."""
        send_back: Callable[[], object] | None = suspect.put_back
        with self._lock:
            if self._stage == "open":
                self._enter("clearing" if self._open_count() else "searching")
                _log.warning("suspect_received", losses=suspect.losses)
            if self._stage == "searching":
                send_back = self._gather(suspect)
                self._note_passed(suspect.identity)
        if send_back is not None:
            send_back()
        self._on_change()

    def _gather(self, suspect: Suspect) -> Callable[[], object] | None:
        """Have a suspect join the group, or return how it goes back to the queue."""
        is_full = len(self._group) >= self._size([*self._group, suspect])
        if is_full or (self._has_marked and not suspect.is_marked):
            return suspect.put_back
        if suspect.losses < ALONE_AT or suspect.is_marked:
            self._group.append(suspect)
            return None
        self._has_marked = True
        self._passed.clear()  # What passed before comes again before this one does.
        return suspect.put_back_marked

    def look(self) -> None:
        """Enter the next stage if it is time; call it about once a second."""
        begun: list[Suspect] = []
        with self._lock:
            stage = self._stage
            is_waiting = stage in ("clearing", "closing", "running") and self._open_count() > 0
            self._looks = 0 if is_waiting else self._looks + 1
            if stage == "open" or self._looks < (
                SEARCH_LOOKS if stage == "searching" and not self._group else QUIET_LOOKS
            ):
                return
            if stage == "closing":
                begun = [each for each in self._group if not each.is_stale()]
                self._group = []
            if stage == "clearing":
                self._enter("searching")
            elif stage == "searching" and self._group:
                self._enter("closing")
            else:
                self._enter("running" if begun else "open")
        if begun:
            _log.warning("suspects_begun", suspects=len(begun), losses=max(each.losses for each in begun))
            for suspect in begun:
                suspect.begin()
        self._on_change()

    def close(self) -> None:
        """Put back the suspects that were gathered, because the process stops."""
        with self._lock:
            group, self._group = self._group, []
        for suspect in group:
            suspect.put_back()

    def _size(self, group: Sequence[Suspect]) -> int:
        return min(group_size(each.losses, self._concurrency) for each in group)

    def _note_passed(self, identity: Hashable) -> None:
        """End the search once the group is full, or the whole queue was seen."""
        has_seen_all = identity in self._passed or len(self._passed) >= REMEMBERED
        self._passed.add(identity)
        self._looks = 0
        if self._group and (has_seen_all or len(self._group) == self._size(self._group)):
            self._enter("closing")
        elif has_seen_all:
            self._enter("open")

    def _enter(self, stage: Stage) -> None:
        self._stage, self._looks, self._passed, self._has_marked = stage, 0, set(), False
