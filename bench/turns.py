"""Compares a service with a bare loop, in turns, where both solve the same problems and must do the same work."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shared.errors import RetryableError

LOOKAHEADS = (0, 4)
"""Step by step, as the loop goes, and with the small model drafting ahead."""

LEAST_ACCURACY = 0.95
MOST_DIFFERENT = 0.03
"""By which the steps of both may differ: batches of other sizes round otherwise, and a step comes out otherwise."""

Problem = Mapping[str, str]
"""As the API takes it."""


class NotSolved(RetryableError):
    """Problems of the benchmark were not solved; the service's log says why."""

    code = "not_solved"


@dataclass(frozen=True, kw_only=True)
class Solved:
    """A run of problems."""

    steps: int
    seconds: float
    correct: int
    wasted: float = 0.0
    """Share of the small model's tokens that were drafted ahead for nothing."""

    @property
    def steps_per_s(self) -> float:
        """How fast it was."""
        return self.steps / self.seconds


Solve = Callable[[Sequence[Problem]], Solved]


class Service(Protocol):
    """What is compared with the bare loop."""

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
    """Compare in turns; return the medians of both speeds, and of the share of the bare one that the service reaches.

    Args:
        fresh: Draws the problems of a turn.
        name: Of the bare loop's speed in the result.
        bare: The bare loop.
        service: What it is compared with.
        repeats: Turns with each lookahead.
        prefix: Of the other names.
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
        NotSolved: They did not do the same work.
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
            f" service {ours.correct} in {ours.steps}; that is no comparison."
        )
    return theirs, ours
