"""The policies that a submission can name. To add one, add it to `POLICIES`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from shared.domain.decisions import Observation
from shared.domain.options import Wrappers
from shared.domain.roles import Author
from shared.errors import PermanentError
from shared.policies.artefact import Artefact, BadArtefact
from shared.policies.baselines import LargeOnly, Random, SmallOnly
from shared.policies.cascade import Cascade
from shared.policies.confidence import Confidence
from shared.policies.learned.aggregate import AggregatePolicy
from shared.policies.learned.sequence import SequencePolicy
from shared.policies.policy import FittedPolicy, Policy
from shared.policies.pomdp.policy import Pomdp
from shared.policies.threshold import Threshold
from shared.policies.wrapping import Routing
from shared.spelling import suggest

KINDS: Sequence[type[Policy]] = (
    Threshold, AggregatePolicy, SequencePolicy, Pomdp, Confidence, Cascade, SmallOnly, LargeOnly, Random,
)  # fmt: skip

POLICIES: Mapping[str, type[Policy]] = {kind.name: kind for kind in KINDS}

_PROBE = Observation(
    step=1,
    score=0.5,
    previous_scores=(0.5,),
    previous_authors=(Author.LARGE,),
    previous_tokens=(20,),
    draft_tokens=20,
)
"""What a policy decides on before its artefact is used."""


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
        detail = f"{first['msg']}."
        if first["type"] == "extra_forbidden":
            detail = f"There is no such parameter; {suggest(field, kind.model_fields)}"
        raise BadParameters(f"Policy {name!r}, parameter {field!r}: {detail}") from error


def check_artefact(name: str, artefact: Artefact) -> None:
    """Check that a policy can decide with an artefact: build it, and let it decide once, as an orchestrator will.

    Raises:
        BadArtefact: The policy has no versions in this version of the code, or cannot decide with the artefact.
    """
    kind = POLICIES.get(name)
    if kind is None or not issubclass(kind, FittedPolicy):
        raise BadArtefact(f"The policy {name!r} is not fitted to models here, so it has no versions.")
    try:
        is_finite = kind().fitted(artefact).decide(_PROBE).is_finite
    except PermanentError:
        raise
    except Exception as error:
        raise BadArtefact(f"The policy {name!r} cannot decide with this artefact ({type(error).__name__}).") from error
    if not is_finite:
        raise BadArtefact(f"The policy {name!r} decides on numbers that are not finite with this artefact.")
