"""Compares the service with a bare loop in turns. Both solve the same problems and must do the same work."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shared.errors import RetryableError

LOOKAHEADS = (0, 4)
"""Step by step, as the bare loop works, and with the small model drafting ahead."""

LEAST_ACCURACY = 0.95
MOST_DIFFERENT = 0.03
"""Maximum relative difference of the step counts: batches of different sizes round differently, so steps may differ."""

Problem = Mapping[str, str]
"""Problem as the API accepts it."""


class NotSolved(RetryableError):
    """Problems of the benchmark were not solved; see the log of the service."""

    code = "not_solved"


@dataclass(frozen=True, kw_only=True)
class Solved:
    """Result of one run."""

    steps: int
    seconds: float
    correct: int
    wasted: float = 0.0
    """Share of the small model's tokens that were wasted."""

    @property
    def steps_per_s(self) -> float:
        """Steps per second."""
        return self.steps / self.seconds


Solve = Callable[[Sequence[Problem]], Solved]


class Service(Protocol):
    """The service that is compared with the bare loop."""

    def solve(self, problems: Sequence[Problem], *, lookahead: int) -> Solved:
        """Solve problems."""


def measure(
    fresh: Callable[[], Sequence[Problem]],
    name: str,
    *,
    bare: Solve,
    service: Service,
    repeats: int,
    prefix: str = "",
) -> dict[str, Any]:
    """Compare in turns; return the medians of both speeds and of the service's share of the bare speed.

    Args:
        fresh: Draws the problems of a turn.
        name: Name of the bare loop's speed in the result.
        bare: The bare loop.
        service: The service.
        repeats: Number of turns with each lookahead.
        prefix: Prefix of the other names in the result.
    """
    turns = [
        [compare(fresh(), bare=bare, service=service, lookahead=lookahead) for lookahead in LOOKAHEADS]
        for _ in range(repeats)
    ]
    result: dict[str, Any] = {
        name: round(statistics.median(theirs.steps_per_s for turn in turns for theirs, _ in turn), 1)
    }
    for lookahead, pairs in zip(LOOKAHEADS, zip(*turns, strict=True), strict=True):
        ending = f"_lookahead{lookahead}" if lookahead else ""
        shares = [ours.steps_per_s / theirs.steps_per_s for theirs, ours in pairs]
        result |= {
            f"{prefix}steps_per_s{ending}": round(statistics.median(ours.steps_per_s for _, ours in pairs), 1),
            f"{prefix}share_of_bare{ending}": round(statistics.median(shares), 3),
            f"{prefix}share_of_bare{ending}_range": [round(min(shares), 3), round(max(shares), 3)],
        }
        if lookahead:
            wasted = statistics.median(ours.wasted for _, ours in pairs)
            result[f"{prefix}small_wasted{ending}"] = round(wasted, 3)
    return result


def compare(problems: Sequence[Problem], *, bare: Solve, service: Service, lookahead: int) -> tuple[Solved, Solved]:
    """Solve problems with the bare loop, then with the service.

    Raises:
        NotSolved: The bare loop and the service did not do the same work.
    """
    theirs, ours = bare(problems), service.solve(problems, lookahead=lookahead)
    print(
        f"  lookahead {lookahead}: bare {theirs.steps_per_s:.1f} steps/s, service {ours.steps_per_s:.1f}:"
        f" {ours.steps_per_s / theirs.steps_per_s:.1%}",
        flush=True,
    )
    least = LEAST_ACCURACY * sum("reference" in problem for problem in problems)
    if min(theirs.correct, ours.correct) < least or abs(theirs.steps - ours.steps) > MOST_DIFFERENT * theirs.steps:
        raise NotSolved(
            f"Of {len(problems)} problems the bare loop solved {theirs.correct} in {theirs.steps} steps and the"
            f" service {ours.correct} in {ours.steps}; the two cannot be compared."
        )
    return theirs, ours
