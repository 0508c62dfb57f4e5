"""The policies that a submission can name. To add one, add it to `POLICIES`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from shared.domain.options import Wrappers
from shared.errors import PermanentError
from shared.policies.baselines import LargeOnly, Random, SmallOnly
from shared.policies.cascade import Cascade
from shared.policies.confidence import Confidence
from shared.policies.learned.aggregate import AggregatePolicy
from shared.policies.learned.sequence import SequencePolicy
from shared.policies.policy import Policy
from shared.policies.pomdp.policy import Pomdp
from shared.policies.threshold import Threshold
from shared.policies.wrapping import Routing

KINDS: Sequence[type[Policy]] = (
    Threshold, AggregatePolicy, SequencePolicy, Pomdp, Confidence, Cascade, SmallOnly, LargeOnly, Random,
)  # fmt: skip

POLICIES: Mapping[str, type[Policy]] = {kind.name: kind for kind in KINDS}


class UnknownPolicy(PermanentError):
    """There is no policy of this name; GET /v1/policies lists the available ones."""

    code = "unknown_policy"


class BadParameters(PermanentError):
    """The policy's parameters are wrong; GET /v1/policies shows what each policy takes."""

    code = "bad_policy_parameters"


def build_routing(name: str, parameters: Mapping[str, Any], wrappers: Wrappers) -> Routing:
    """Build a policy from its name and parameters, with its wrappers.

    Raises:
        UnknownPolicy: No policy has this name.
        BadParameters: A parameter is unknown, of the wrong type or out of range, or a wrapper does not fit the policy.
    """
    policy = build_policy(name, parameters)
    if wrappers.epsilon > 0 and policy.plan.decides_whole:
        raise BadParameters(f"Policy {name!r} decides whole solutions, and epsilon explores single steps; omit one.")
    return Routing(policy, wrappers)


def build_policy(name: str, parameters: Mapping[str, Any]) -> Policy:
    """Build a policy from its name and parameters.

    Raises:
        UnknownPolicy: No policy has this name.
        BadParameters: A parameter is unknown, of the wrong type or out of range.
    """
    kind = POLICIES.get(name)
    if kind is None:
        raise UnknownPolicy(f"There is no policy {name[:80]!r}; the available ones are {', '.join(sorted(POLICIES))}.")
    try:
        return kind.model_validate(dict(parameters))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])[:80]
        raise BadParameters(f"Policy {name!r}, parameter {field!r}: {first['msg']}.") from error
