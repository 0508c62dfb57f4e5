"""The figures of a replay, each with a label: exact, weighted, simulated, or left out with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Final

from evaluation.replay import Divergence, RecordedProblem, Replayed
from evaluation.resampling import ratio_statistic
from shared.domain.decisions import Decision


class Label(StrEnum):
    """How far a figure can be relied on."""

    EXACT = "exact"
    """The recorded actions are those of the policy, so the figure is what a run of the policy would have given; or it
    describes the record alone, as `agreement` does."""
    WEIGHTED = "weighted"
    """An estimate from the problems whose recorded actions are the policy's by chance."""
    SIMULATED = "simulated"
    """From another run: the policy solved the recorded problems again, with the engines of the settings."""
    LEFT_OUT = "left_out"
    """The record does not allow it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure with its label."""

    label: Label
    value: float | None = None
    low: float | None = None
    """Lower end of the 95 % interval, over resampled questions."""
    high: float | None = None
    undefined: float = 0.0
    """Share of the resamples that leave it undefined; there is no interval if it is more than `MAX_UNDEFINED`."""
    problems: int = 0
    """Number of problems that it rests on."""
    effective_problems: float | None = None
    """For a weighted figure the effective sample size, (sum of weights)^2 / sum of squares (Kish, 1965)."""
    mean_weight: float | None = None
    """For a weighted figure the mean of the weights. Its expectation is 1."""
    reason: str | None = None
    """Why it is left out."""


Measure = Callable[[RecordedProblem], float | None]

_OF_SOLUTIONS: Final[Mapping[str, tuple[Measure, Measure]]] = {
    "escalation_rate": (lambda problem: problem.escalations, lambda problem: len(problem.decisions)),
    "accuracy": (lambda problem: problem.is_solved, lambda _: 1),
    "large_tokens": (lambda problem: problem.large_tokens, lambda _: 1),
}
"""Figures of whole solutions: a sum over problems, and the sum that divides it."""


def figures(replayed: Sequence[Replayed], simulated: Sequence[RecordedProblem] = ()) -> dict[str, Figure]:
    """Compute the figures of a replay.

    `agreement` is the share of decisions, up to and with the first divergence of each problem, in which the policy
    takes the recorded action. It describes the record, so it is always exact. The others are figures of whole
    solutions, as a run of the policy would give them: the decisions up to a divergence are a biased sample.

    Args:
        replayed: How the policy follows the record.
        simulated: What the policy did in a simulation, for the figures that the record does not allow.
    """
    usable = [each for each in replayed if each.left_out is None]
    agreement = [(each.problem, each.compared - (each.divergence is not None), each.compared) for each in usable]
    found = {"agreement": _ratio(agreement, Label.EXACT)}
    for name, (measure, per) in _OF_SOLUTIONS.items():
        found[name] = _of_solutions(usable, measure, per)
        if found[name].label is Label.LEFT_OUT and simulated and all(measure(each) is not None for each in simulated):
            found[name] = _ratio([(each, measure(each) or 0, per(each) or 0) for each in simulated], Label.SIMULATED)
    return found


def lacks_figures(replayed: Sequence[Replayed]) -> bool:
    """Return whether the record does not allow some figure."""
    return any(each.label is Label.LEFT_OUT for each in figures(replayed).values())


def summary(replayed: Sequence[Replayed], simulated: Sequence[RecordedProblem] = ()) -> dict[str, Any]:
    """Summarise a replay as JSON, with the first divergence of each problem; see `figures`."""
    agreeing = [each for each in replayed if each.agrees]
    return {
        "problems": len(replayed),
        "left_out": Counter(str(each.left_out) for each in replayed if each.left_out is not None),
        "agreeing": len(agreeing),
        "diverging": sum(each.divergence is not None for each in replayed),
        "unsupported": sum(
            each.problem.explores and each.left_out is None and each.weight is None for each in replayed
        ),
        "figures": {name: asdict(figure) for name, figure in figures(replayed, simulated).items()},
        "divergences": [
            {"problem_id": each.problem.problem_id, **_divergence(each.divergence)}
            for each in replayed
            if each.divergence is not None
        ],
    }


def _of_solutions(usable: Sequence[Replayed], measure: Measure, per: Measure) -> Figure:
    """Compute a measure of whole solutions, as a ratio to another one."""
    if not usable:
        return Figure(label=Label.LEFT_OUT, reason="No problem can be replayed.")
    if any(measure(each.problem) is None for each in usable):
        return Figure(label=Label.LEFT_OUT, reason="Some problems have no reference.")
    problems = [each.problem for each in usable]
    diverging = sum(each.divergence is not None for each in usable)
    if not diverging:
        return _ratio([(each, measure(each) or 0, per(each) or 0) for each in problems], Label.EXACT)
    weights = [each.weight for each in usable if each.weight is not None]
    if reason := _why_not_weighted(usable, weights):
        parting = f"The policy leaves the record of {diverging} of {len(usable)} problems"
        return Figure(label=Label.LEFT_OUT, reason=f"{parting}, and {reason}.")
    parts = [
        (each, weight * (measure(each) or 0), weight * (per(each) or 0))
        for each, weight in zip(problems, weights, strict=True)
    ]
    return replace(
        _ratio(parts, Label.WEIGHTED),
        effective_problems=sum(weights) ** 2 / sum(each**2 for each in weights),
        mean_weight=sum(weights) / len(weights),
    )


def _why_not_weighted(usable: Sequence[Replayed], weights: Sequence[float]) -> str | None:
    if not any(each.problem.explores for each in usable):
        return "the record did not explore (epsilon)"
    if lacking := len(usable) - len(weights):
        return f"{lacking} have no weight, because the record could not have gone the policy's way"
    if not any(weights):
        return "none that explored follows it"
    return None


def _ratio(parts: Sequence[tuple[RecordedProblem, float, float]], label: Label) -> Figure:
    """Divide a sum over problems by another one; problems with the same question are resampled together."""
    questions: dict[str, list[float]] = {}
    for each, above, below in parts:
        sums = questions.setdefault(each.question, [0.0, 0.0])
        sums[0] += above
        sums[1] += below
    if not questions:
        return Figure(label=Label.LEFT_OUT, reason="No problem can be replayed.")
    statistic = ratio_statistic(*zip(*questions.values(), strict=True))
    low, high = (None, None) if (interval := statistic.interval) is None else (interval.low, interval.high)
    return Figure(
        label=label,
        value=statistic.value,
        low=low,
        high=high,
        undefined=statistic.undefined,
        problems=len(parts),
    )


def _divergence(divergence: Divergence) -> dict[str, Any]:
    recorded = divergence.recorded
    return {
        "number": recorded.number,
        "step": recorded.step,
        "recorded": _decision(recorded.decision),
        "policy": None if divergence.decision is None else _decision(divergence.decision),
        "is_cut": divergence.is_cut,
    }


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "action": str(decision.action),
        "reason": decision.reason,
        "value": decision.value,
        "compared_with": decision.compared_with,
        "numbers": dict(decision.numbers),
    }
