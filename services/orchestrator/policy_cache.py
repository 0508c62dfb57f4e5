"""The policies that decide: built from the submitter's choice, and cached."""

from __future__ import annotations

import json
from functools import lru_cache

from shared.domain.options import PolicyChoice
from shared.policies.policy import Policy
from shared.policies.registry import build_policy


def policy_of(choice: PolicyChoice) -> Policy:
    """Return the policy that a problem's submitter chose, as this version of the code decides.

    Raises:
        UnknownPolicy: This version has no policy of this name.
        BadParameters: This version's policy refuses the parameters.
    """
    return _build(choice.name, json.dumps(choice.parameters, sort_keys=True))


@lru_cache(maxsize=1024)
def _build(name: str, parameters: str) -> Policy:
    return build_policy(name, json.loads(parameters))
