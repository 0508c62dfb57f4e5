"""What happens to a problem, as the service reports it while it works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from trim_client.models.problems import Problem
from trim_client.models.record import Decision, Step


@dataclass(frozen=True, slots=True)
class DecisionMade:
    """A draft was kept, or its step goes to the large model."""

    decision: Decision
    id: str
    """Position in the stream, which `stream(..., after=)` takes."""


@dataclass(frozen=True, slots=True)
class StepAccepted:
    """The solution has another step. The decision that accepted it, if there is one, came before."""

    step: Step
    id: str
    """Position in the stream, which `stream(..., after=)` takes."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The problem has ended. No event follows."""

    problem: Problem
    id: str


Event: TypeAlias = DecisionMade | StepAccepted | Ended
