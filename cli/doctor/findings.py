"""What the doctor finds: one finding for each dependency of the service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """Outcome of looking at a dependency."""

    OK = "ok"
    WRONG = "wrong"
    UNCHECKED = "unchecked"
    """Nothing that was reached tells about it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong."""

    sentence: str
    remedy: str
    """What to do next, in a sentence."""
    command: str = ""
    """The command that the sentence means; empty if it means none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found about one dependency."""

    name: str
    sentence: str = ""
    """What is there; empty if the faults state all."""
    faults: Sequence[Fault] = ()
    is_checked: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The same as values, for programs."""

    @property
    def state(self) -> State:
        """Outcome."""
        if self.faults:
            return State.WRONG
        return State.OK if self.is_checked else State.UNCHECKED

    @property
    def value(self) -> dict[str, Any]:
        """The finding as JSON."""
        return {
            "name": self.name,
            "state": self.state.value,
            "sentence": self.sentence,
            "faults": [
                {"sentence": each.sentence, "remedy": each.remedy, "command": each.command} for each in self.faults
            ],
            "facts": dict(self.facts),
        }


def unchecked(name: str, sentence: str) -> Finding:
    """Return the finding about a dependency that could not be looked at."""
    return Finding(name=name, sentence=sentence, is_checked=False)
