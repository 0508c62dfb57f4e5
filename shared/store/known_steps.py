"""The committed steps of the problems that an orchestrator works on: a transaction reads only those that are new.

Steps are appended, and never changed afterwards, except that a large step gets its score with the draft that follows
it. So the steps that a process has committed or read stay right, whatever other orchestrators append. Only a server
that has lost commits, or was restored, contradicts them. All connections break then, and each new one empties this
memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Self
from uuid import UUID

from shared.domain.roles import Author
from shared.domain.steps import Step
from shared.machine.state import State

MAX_BYTES: Final = 64 << 20
"""Maximum size of all steps, estimated. The problems that were used longest ago are forgotten first."""

OVERHEAD_BYTES: Final = 500
"""What a problem, and each of its steps, takes besides the text; a character is taken for a byte."""


@dataclass(frozen=True, slots=True)
class Known:
    """The first steps of one problem."""

    steps: tuple[Step, ...] = ()
    digest: str = ""
    """Digest of question and steps; empty if it is not known."""
    unscored_from: int = 0
    """Index of the first of the large steps at the end whose score may have arrived meanwhile."""
    size: int = 0

    @classmethod
    def of(cls, state: State) -> Self:
        """Return what a state tells."""
        steps = state.steps
        index = len(steps)
        if state.options.plan.scores:
            while index and steps[index - 1].author is Author.LARGE and steps[index - 1].score is None:
                index -= 1
        size = OVERHEAD_BYTES * (1 + len(steps)) + sum(len(step.text) for step in steps)
        return cls(steps, state.digest, index, size)


NOTHING: Final = Known()


class KnownSteps:
    """Steps by problem. Safe to use from many threads."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._lock = threading.Lock()
        self._max_bytes = max_bytes
        self._known: OrderedDict[UUID, Known] = OrderedDict()
        self._size = 0
        self.generation = 0
        """Rises whenever everything is forgotten."""

    def find(self, problem_ids: Collection[UUID]) -> list[Known]:
        """Return what is known of each problem."""
        with self._lock:
            return [self._known.get(each, NOTHING) for each in problem_ids]

    def keep(self, states: Collection[State], *, generation: int) -> None:
        """Keep the steps of problems as they were committed, unless everything was forgotten since a generation."""
        with self._lock:
            if generation != self.generation:
                return
            for state in states:
                self._forget(state.problem_id)
                if not state.status.is_final:
                    self._keep(state)
            while self._size > self._max_bytes:
                self._forget(next(iter(self._known)))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._known.clear()
            self._size = 0
            self.generation += 1

    def _keep(self, state: State) -> None:
        known = self._known[state.problem_id] = Known.of(state)
        self._size += known.size

    def _forget(self, problem_id: UUID) -> None:
        known = self._known.pop(problem_id, NOTHING)
        self._size -= known.size


def join_steps(known: Sequence[Step], rows: Sequence[Step]) -> tuple[Step, ...]:
    """Replace and append steps that were read again; both are in the order of their indices, without a gap."""
    steps = list(known)
    for step in rows:
        steps[step.index : step.index + 1] = [step]
    return tuple(steps)
