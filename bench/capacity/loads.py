"""Scripted loads: problems of a given shape, and how many of them are in flight."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

WORD = "step "
"""One token of the scripted engine, which counts words, in 5 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Problems of one shape."""

    name: str
    in_flight: int
    """Number of problems that are submitted at once."""
    waves: int = 1
    """Number of times that they are."""
    steps: int = 8
    step_tokens: int = 4
    question_tokens: int = 4
    lookahead: int = 0
    escalate_every: int = 0
    """Every step whose index is a multiple of this number is escalated, except step 0; 0 escalates none."""
    small_ms: float = 0.0
    large_ms: float = 0.0
    prm_ms: float = 0.0
    variants: int = 1
    """Number of scripts with different durations, between half and one and a half times the mean: problems with equal
    durations would keep in step, and their events would arrive together."""

    def question(self, number: int) -> str:
        """Return the question of a problem; its script is found by it."""
        return f"{self.name} {number % self.variants} ".ljust(self.question_tokens * len(WORD), "?")

    @property
    def is_paced(self) -> bool:
        """Whether its steps take time, each another, so that its messages arrive at random."""
        return self.small_ms > 0

    @property
    def escalations(self) -> int:
        """Escalated steps of one problem."""
        return (self.steps - 1) // self.escalate_every if self.escalate_every else 0

    @property
    def problems(self) -> int:
        """Number of problems in one run."""
        return self.in_flight * self.waves

    def script(self, number: int) -> list[dict[str, Any]]:
        """Write the steps of a problem."""
        words = (WORD * (self.step_tokens - 2)).strip()  # the engine counts the end of the step as a token
        steps: list[dict[str, Any]] = []
        for index in range(self.steps):
            is_escalated = bool(index and self.escalate_every and index % self.escalate_every == 0)
            text = f"{index:04} {words}"  # A step that repeats the one before it would end the solution.
            if index + 1 == self.steps:
                text += " \\boxed{7}"
            score = 0.1 if is_escalated else 0.9
            steps.append({"small": text, "large": f"Large {text}", "score": score, **self._delays(number, index)})
        return steps

    def _delays(self, number: int, index: int) -> dict[str, float]:
        """Return the durations of a step; over all variants, each takes every value once."""
        place = (number + index * (index + 1)) % self.variants
        factor = 1.0 if self.variants == 1 else 0.5 + (place + 0.5) / self.variants
        return {"small_ms": self.small_ms * factor, "large_ms": self.large_ms * factor, "prm_ms": self.prm_ms}


def script(loads: Iterable[Load]) -> dict[str, Any]:
    """Write the script of several loads."""
    return {
        "problems": {load.question(number): load.script(number) for load in loads for number in range(load.variants)}
    }
