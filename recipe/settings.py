"""The settings of each policy that an evaluation draws as the policy's curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from shared.policies.artefact import Artefact
from shared.policies.policy import FittedPolicy, Policy
from shared.policies.registry import build_policy

SHARES: Final = (0.02, 0.05, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.65, 0.8)
"""Shares of the steps that a learned policy escalates."""

CURVES: Final[Mapping[str, tuple[str, tuple[float | None, ...]]]] = {
    "threshold": (
        "threshold",
        (0.01, 0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99),
    ),
    "aggregate": ("escalate_share", (None, *SHARES)),
    "sequence": ("escalate_share", (None, *SHARES)),
    "pomdp": (
        "large_token_price",
        (0.0, 3e-4, 5e-4, 6.5e-4, 8e-4, 1e-3, 1.2e-3, 1.5e-3, 2e-3, 3e-3, 4e-3, 5e-3, 7e-3, 1e-2, 1.4e-2, 2e-2),
    ),
    "confidence": ("threshold", (0.75, 0.85, 0.9, 0.93, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.999)),
    "cascade": ("threshold", (0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.997)),
    "random": ("p", (0.25, 0.5, 0.75)),
}
"""By policy: the parameter that moves along the curve, and its values; `None` is the default."""


def curve(name: str, artefacts: Mapping[str, Artefact]) -> Iterator[tuple[Policy, str]]:
    """Yield a policy at each of its settings, with the setting's label.

    Args:
        name: Name of the policy.
        artefacts: Artefacts of the fitted policies, by name.
    """
    parameter, values = CURVES[name]
    for value in values:
        policy = build_policy(name, {parameter: value})
        yield policy.fitted(artefacts[name]) if isinstance(policy, FittedPolicy) else policy, label_of(name, value)


def label_of(name: str, value: float | None) -> str:
    """Return the label of a setting."""
    return name if value is None else f"{name} {value:g}"


def choice(label: str) -> dict[str, Any]:
    """Return a setting as the API takes it, from its label."""
    name, _, value = label.partition(" ")
    return {"name": name, "parameters": {CURVES[name][0]: float(value)} if value else {}}
