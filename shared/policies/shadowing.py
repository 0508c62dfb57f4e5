"""Shadows: which policies may shadow which, and what a shadow decides beside a decision of the policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from shared.domain.decisions import Action, Decision, DecisionRecord
from shared.domain.options import Plan
from shared.domain.shadows import Skip, Skipped
from shared.domain.steps import Step
from shared.errors import PermanentError
from shared.policies.wrapping import Routing


class UnfitShadow(PermanentError):
    """The shadow cannot decide on the observations of the problem's policy; omit it or choose another policy."""

    code = "unfit_shadow"


def reporting(plan: Plan, shadows: Iterable[Routing]) -> Plan:
    """Return a problem's plan, with the log-probabilities of drafts if one of its shadows reads them.

    Drafts with and without them are the same work.
    """
    return replace(plan, confidence=plan.confidence or any(each.plan.confidence for each in shadows))


def check_shadow(shadow: Routing, plan: Plan, *, policy: str) -> None:
    """Check that a policy can shadow another one.

    A shadow causes no work: it decides on what the policy of the problem sees, or not at all.

    Args:
        shadow: The shadow.
        plan: Plan of the problem's policy.
        policy: Name of the problem's policy.

    Raises:
        UnfitShadow: It needs what the observations lack, or its decisions would mean nothing.
    """
    name, needs = shadow.policy.name, shadow.plan
    if shadow.wrappers.budget is not None or shadow.wrappers.take_over:
        raise UnfitShadow(
            "The wrappers `budget` and `take_over` change what follows from a decision, and nothing follows from a"
            " shadow's decision; omit them."
        )
    lacking = {
        "drafts": needs.drafts and not plan.drafts,
        "PRM scores": needs.scores and not plan.scores,
        "log-probabilities": needs.confidence and not plan.confidence,
        "the scores of whole solutions": needs.decides_whole and not plan.decides_whole,
        "decisions before drafts": needs.skips_drafts and not plan.skips_drafts,
    }
    missing = [what for what, is_lacking in lacking.items() if is_lacking]
    if missing:
        raise UnfitShadow(
            f"The policy {name!r} needs {' and '.join(missing)}, which the policy {policy!r} does not ask for. A shadow"
            " causes no work; choose another one."
        )


def decide_as_shadow(shadow: Routing, record: DecisionRecord, steps: Sequence[Step]) -> Decision | Skipped:
    """Return what a shadow decides on the observation of a decision.

    Args:
        shadow: The shadow, which `check_shadow` has accepted.
        record: The decision of the problem's policy.
        steps: At least the steps that were accepted before it.
    """
    if (other := _find_other(shadow, record, steps)) is not None:
        return Skipped(reason=Skip.MODELS_DIFFER, detail=f"The policy {shadow.version.label} {other}.")
    if record.draft is None and shadow.plan.drafts:
        decision = shadow.before_draft(record.observation)
    else:
        decision = shadow.decide(record.observation)
    if decision is None:
        return Skipped(reason=Skip.NO_DRAFT, detail="The policy escalated the step before it was drafted.")
    return _plain(decision) or Skipped(reason=Skip.CRASHED, detail="It returned a number that is not finite.")


def _find_other(shadow: Routing, record: DecisionRecord, steps: Sequence[Step]) -> str | None:
    """Name a model that a fitted shadow would judge the work of, although it was fitted on another one."""
    if shadow.models is None:
        return None
    used = [(step.author.value, step.model) for step in steps[: record.step]]
    if record.draft is not None:
        used.append((record.draft.author.value, record.draft.model))
    if record.scoring is not None:
        used.append(("prm", record.scoring.model))
    return shadow.models.find_other(used)


def _plain(decision: Decision) -> Decision | None:
    """Return a decision with plain types, as a row takes them; `None` if a number is not finite."""
    value, compared_with = (None if each is None else float(each) for each in (decision.value, decision.compared_with))
    plain = Decision(
        action=Action(decision.action),
        reason=str(decision.reason),
        value=value,
        compared_with=compared_with,
        numbers={str(name): float(number) for name, number in decision.numbers.items()},
        propensity=float(decision.propensity),
    )
    return plain if plain.is_finite else None
