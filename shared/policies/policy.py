"""What every policy is: validated parameters and a decision function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from shared.domain.values import Decision, Observation, Plan


class Policy(BaseModel, ABC):
    """A routing policy; its fields are its parameters, its docstring is what users read of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    name: ClassVar[str]
    """What a submission calls it."""
    revision: ClassVar[int] = 1
    """Plus one when the same parameters would decide differently; stored with every problem."""

    @property
    def plan(self) -> Plan:
        """Which models it needs at each step."""
        return Plan()

    @abstractmethod
    def decide(self, observation: Observation) -> Decision:
        """Choose what becomes of the draft. Called only for drafts with a usable score, if the plan asks for one."""
