"""Names of models: each names a policy, and some a setting or a version of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from services.api.openai.errors import UnknownModel
from services.api.schemas.submissions import MAX_VERSION, PolicyChoice
from shared.errors import PermanentError
from shared.policies.policy import FittedPolicy
from shared.policies.registry import POLICIES, build_policy
from shared.spelling import suggest

DEFAULT: Final = "trim"
"""Model that stands for the service as it is: its default policy, or the one that a request names by itself."""

_SETTINGS: Final[Mapping[str, str]] = {
    "threshold": "threshold",
    "cascade": "threshold",
    "confidence": "threshold",
    "random": "p",
    "pomdp": "large_token_price",
    "aggregate": "escalate_share",
    "sequence": "escalate_share",
}
"""Parameter that a number at the end of a name sets, by policy."""

_SHORT: Final[Mapping[str, str]] = {"small-only": "small", "large-only": "large"}
_POLICIES: Final[Mapping[str, str]] = {_SHORT.get(name, name): name for name in POLICIES}
"""Policies by their part of a model's name."""

_NAME: Final = re.compile(
    r"trim-(?P<policy>[a-z]+)(?:@(?P<version>[1-9]\d{0,9}))?(?:-(?P<setting>\d{1,9}(?:\.\d{1,15})?))?", re.ASCII
)

_LISTED_THRESHOLDS: Final = (0.2, 0.35, 0.5, 0.65, 0.8)
"""Thresholds that are listed; a name may have any other."""

FITTED: Final[Sequence[str]] = tuple(name for name, kind in POLICIES.items() if issubclass(kind, FittedPolicy))
"""Policies that decide with versions. Their models exist while there is a default for the running models."""

PRESETS: Final[Sequence[str]] = (
    DEFAULT,
    "trim-small",
    "trim-large",
    *(f"trim-threshold-{each}" for each in _LISTED_THRESHOLDS),
    *(f"trim-{part}" for part, name in _POLICIES.items() if name not in (*FITTED, *_SHORT, "threshold")),
)
"""Models that always exist, as they are listed."""


def name_of(policy: str) -> str:
    """Return the model that names a policy with its defaults."""
    return f"trim-{_SHORT.get(policy, policy)}"


def read_name(model: str) -> PolicyChoice:
    """Return the policy that a model's name stands for.

    Raises:
        UnknownModel: There is no such model.
    """
    if model == DEFAULT:
        return PolicyChoice()
    found = _NAME.fullmatch(model)
    policy = _POLICIES.get(found["policy"]) if found else None
    if found is None or policy is None:
        known = [*PRESETS, *map(name_of, FITTED)]
        raise UnknownModel(f"There is no model `{model[:80]}`; {suggest(model, known)}")
    return PolicyChoice(
        name=policy,
        parameters=_read_setting(model, policy, found["setting"]),
        version=_read_version(model, policy, found["version"]),
    )


def _read_setting(model: str, policy: str, setting: str | None) -> dict[str, float]:
    if setting is None:
        return {}
    if policy not in _SETTINGS:
        raise UnknownModel(f"There is no model `{model}`: the policy `{policy}` has no setting; omit the number.")
    parameters = {_SETTINGS[policy]: float(setting)}
    try:
        build_policy(policy, parameters)
    except PermanentError as error:
        raise UnknownModel(f"There is no model `{model}`: {error}") from error
    return parameters


def _read_version(model: str, policy: str, version: str | None) -> int | None:
    if version is None:
        return None
    if policy not in FITTED or int(version) > MAX_VERSION:
        raise UnknownModel(f"There is no model `{model}`: the policy `{policy}` has no such version; omit it.")
    return int(version)
