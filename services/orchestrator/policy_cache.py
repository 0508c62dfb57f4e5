"""The policies that decide: built from the submitter's choice, and cached."""

from __future__ import annotations

import json
from functools import lru_cache

from shared.domain.options import PolicyChoice, Wrappers
from shared.policies.registry import build_routing
from shared.policies.wrapping import Routing


def routing_of(choice: PolicyChoice) -> Routing:
    """Return what a problem's submitter chose, as this version of the code decides.

    Raises:
        UnknownPolicy: This version has no policy of this name.
        BadParameters: This version's policy refuses the parameters.
    """
    return _build(choice.name, json.dumps(choice.parameters, sort_keys=True), choice.wrappers)


@lru_cache(maxsize=1024)
def _build(name: str, parameters: str, wrappers: Wrappers) -> Routing:
    return build_routing(name, json.loads(parameters), wrappers)
