"""Decisions in a sentence: what happened to a draft, why, and which numbers were compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from trim_client import Decision

BECAUSE: Final[Mapping[str, str]] = {
    "score_below_threshold": "the draft's PRM score {value} is below the threshold {compared_with}",
    "score_at_least_threshold": "its PRM score {value} is at least the threshold {compared_with}",
    "threshold_without_score": "the threshold {compared_with} decides without a PRM score",
    "confidence_below_threshold": "the small model's confidence {value} is below the threshold {compared_with}",
    "confidence_at_least_threshold": "the small model's confidence {value} is at least the threshold {compared_with}",
    "no_confidence": "the small model's engine reported no log-probabilities",
    "least_score_below_threshold": "the least PRM score of the solution, {value}, is below the threshold "
    "{compared_with}",
    "least_score_at_least_threshold": "the least PRM score of the solution, {value}, is at least the threshold "
    "{compared_with}",
    "thought": "it is a thought, which the policy does not judge",
    "explored": "a lot decided, to explore: {value} of {compared_with} was drawn",
    "budget_spent": "{value} of the budget of {compared_with} large tokens are spent, too many to write it again",
    "large_away": "the large model is away",
    "prm_away": "the PRM is away",
    "small_away": "the small model is away",
    "taken_over": "the large model writes the rest after an escalation",
    "probability_above_cut": "the network's probability of an escalation, {value}, is above the cut {compared_with}",
    "probability_at_most_cut": "the network's probability of an escalation, {value}, is at most the cut "
    "{compared_with}",
    "small_only": "the policy keeps every draft",
    "large_only": "the policy has the large model write every step",
    "lot_drawn": "the lot {value} is below the probability {compared_with}",
    "lot_not_drawn": "the lot {value} is not below the probability {compared_with}",
    "gain_above_price": "the large model is expected to gain {value}, more than the price of its tokens, "
    "{compared_with}",
    "gain_at_most_price": "the large model is expected to gain {value}, not more than the price of its tokens, "
    "{compared_with}",
    "draft_below_price": "a draft is expected to gain {value}, less than the price of its tokens, {compared_with}",
    "model_ended": "the small model ended the solution",
    "degenerate_draft": "the draft has no words",
    "invalid_score": "the PRM gave no number from 0 to 1",
}
"""Why, by the reason of a decision. docs/glossary.md explains each reason in full."""


def sentence(decision: Decision) -> str:
    """Return what a decision did, and why: `kept: its PRM score 0.982 is at least the threshold 0.5`."""
    return f"{outcome(decision)}: {because(decision)}"


def outcome(decision: Decision) -> str:
    """Return what a decision did with the step."""
    if decision.action == "accept":
        return "kept"
    if decision.action == "escalate":
        return "rewritten by the large model" if decision.draft is not None else "written by the large model"
    return decision.action


def because(decision: Decision) -> str:
    """Return why a decision was taken; a reason that this version does not know is named."""
    numbers = {"value": figure(decision.value), "compared_with": figure(decision.compared_with)}
    if (known := BECAUSE.get(decision.reason)) is not None:
        return known.format_map(numbers)
    words = decision.reason.replace("_", " ")
    return words if decision.value is None else f"{words} ({numbers['value']} against {numbers['compared_with']})"


def figure(value: float | None) -> str:
    """Return a number with the digits that matter, and no more: 0.9993 stays apart from 1."""
    if value is None:
        return "-"
    if value == int(value):
        return f"{value:.0f}"
    for digits in (3, 6):
        if (text := f"{value:.{digits}f}".rstrip("0").rstrip(".")) not in {"0", "1", "-0"}:
            return text
    return f"{value:.3g}"
