"""Cheap episodes: problems whose solutions branch at every decision, each branch computed once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from shared.domain.decisions import Action, Observation
from shared.domain.ledger import Ledger

Place = TypeVar("Place")


@dataclass(slots=True, eq=False)
class Turn(Generic[Place]):
    """A decision that a policy has to take."""

    observation: Observation
    place: Place
    """Where the solution is; only its branches read it."""
    outcomes: dict[Action, Outcome[Place]] = field(default_factory=dict)
    """Known outcomes of the actions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[Place]):
    """What follows from an action, or from the start of a problem."""

    large_tokens: int
    """Tokens that the large model decoded, in steps of the trajectory."""
    turn: Turn[Place] | None
    """The next decision; `None` if the problem has ended."""
    is_solved: bool = False
    """Whether the problem has ended with the right answer."""
    ledger: Ledger | None = None
    """What the problem cost, once it has ended, if the branches keep it."""


class Branches(ABC, Generic[Place]):
    """A number of problems. The same actions always lead to the same outcomes, so each is computed once."""

    def __init__(self, count: int, *, threads: int = 0) -> None:
        """Start with nothing known.

        Args:
            count: Number of problems.
            threads: Number of unknown outcomes that are computed at the same time, each in a thread, for engines that
                batch concurrent calls; 0 computes them one after the other.
        """
        self.count = count
        self._threads = threads
        self._starts: dict[int, Outcome[Place]] = {}

    def begin(self, problems: Sequence[int]) -> list[Outcome[Place]]:
        """Begin problems, by their numbers from 0."""
        unknown = [problem for problem in dict.fromkeys(problems) if problem not in self._starts]
        self._starts.update(zip(unknown, self._compute([partial(self._start, each) for each in unknown]), strict=True))
        return [self._starts[problem] for problem in problems]

    def follow(self, turns: Sequence[Turn[Place]], actions: Sequence[Action]) -> list[Outcome[Place]]:
        """Take an action at each turn."""
        pairs = list(zip(turns, actions, strict=True))
        unknown = [(turn, action) for turn, action in dict.fromkeys(pairs) if action not in turn.outcomes]
        computed = self._compute([partial(self._take, turn.place, action) for turn, action in unknown])
        for (turn, action), outcome in zip(unknown, computed, strict=True):
            turn.outcomes[action] = outcome
        return [turn.outcomes[action] for turn, action in pairs]

    @abstractmethod
    def _start(self, problem: int) -> Outcome[Place]:
        """Go from the start of a problem to its first decision."""

    @abstractmethod
    def _take(self, place: Place, action: Action) -> Outcome[Place]:
        """Go from one decision to the next."""

    def _compute(self, works: Sequence[Callable[[], Outcome[Place]]]) -> Iterable[Outcome[Place]]:
        if not self._threads or len(works) < 2:  # noqa: PLR2004 - nothing to do at the same time
            return [work() for work in works]
        with ThreadPoolExecutor(self._threads) as pool:
            return list(pool.map(lambda work: work(), works))
