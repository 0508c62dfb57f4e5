"""Where two solutions of one question part: the first step that differs, with the decisions on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shared.errors import PermanentError
from stack.client import Api


class NotComparable(PermanentError):
    """The problems have different questions, or their texts were erased; compare two solutions of one question."""

    code = "not_comparable"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionShown:
    """A decision with its numbers."""

    action: str
    reason: str
    value: float | None
    compared_with: float | None
    numbers: Mapping[str, float]
    draft: str | None
    """Text of the draft that it decided on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShown:
    """A step of one solution, with the decisions on it."""

    author: str | None
    """`None` if the solution has no such step."""
    text: str | None
    decisions: Sequence[DecisionShown]


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """The first step in which two solutions differ."""

    step: int
    first: StepShown
    second: StepShown

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


def first_divergence(first: Iterable[Mapping[str, Any]], second: Iterable[Mapping[str, Any]]) -> Divergence | None:
    """Find the first step whose author or text differs; `None` if the solutions are the same.

    Args:
        first: Audit of one problem: its decisions, each beside the step that was accepted at its place.
        second: Audit of the other.
    """
    ours, theirs = _by_step(first), _by_step(second)
    nothing = StepShown(author=None, text=None, decisions=())
    for step in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(step, nothing), theirs.get(step, nothing)
        if (one.author, one.text) != (other.author, other.text):
            return Divergence(step=step, first=one, second=other)
    return None


def compare_problems(api: Api, first: str, second: str) -> dict[str, Any]:
    """Read two problems from the service, and compare them.

    Args:
        api: The service.
        first: Id of a problem.
        second: Id of another problem with the same question.

    Raises:
        NotComparable: The questions differ, or texts were erased.
        ApiRefused: There is no such problem.
    """
    one, other = (api.get(f"/v1/problems/{problem_id}") for problem_id in (first, second))
    if erased := next((each["id"] for each in (one, other) if each["erased_at"]), None):
        raise NotComparable(f"The texts of the problem {erased} were erased; compare other problems.")
    if one["question"] != other["question"]:
        raise NotComparable(f"The problems {first} and {second} have different questions; name two with one question.")
    audits = [api.items(f"/v1/problems/{problem_id}/audit") for problem_id in (first, second)]
    divergence = first_divergence(*audits)
    return {
        "first": _result(one),
        "second": _result(other),
        "divergence": None if divergence is None else divergence.as_json(),
    }


def _result(problem: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "problem_id": problem["id"],
        "policy": problem["policy"],
        "seed": problem["sampling"]["seed"],
        "status": problem["status"],
        "failure": problem["failure"] and problem["failure"]["code"],
        "answer": problem["answer"],
        "verdict": problem["verdict"],
        "steps": problem["steps"],
        "escalations": problem["escalations"],
        "large_tokens": problem["ledger"]["large_out"],
    }


def _by_step(audit: Iterable[Mapping[str, Any]]) -> dict[int, StepShown]:
    decisions: dict[int, list[DecisionShown]] = {}
    accepted: dict[int, Mapping[str, Any]] = {}
    for entry in audit:
        decision = entry["decision"]
        decisions.setdefault(decision["step"], []).append(
            DecisionShown(
                draft=decision["draft"] and decision["draft"]["text"],
                **{name: decision[name] for name in ("action", "reason", "value", "compared_with", "numbers")},
            )
        )
        if (step := entry["accepted_step"]) is not None:
            accepted[decision["step"]] = step
    return {
        step: StepShown(
            author=accepted[step]["author"] if step in accepted else None,
            text=accepted[step]["text"] if step in accepted else None,
            decisions=taken,
        )
        for step, taken in decisions.items()
    }
