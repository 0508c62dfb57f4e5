"""The versions of fitted policies that a service has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaluation.runs.candidates import Candidate
from shared.policies.policy import FittedPolicy
from shared.policies.registry import POLICIES
from stack.client import Api, NoVersion


def check_versions(api: Api, candidates: Sequence[Candidate]) -> None:
    """Check that the service has each policy, and a version of each fitted one, before anything is submitted.

    Raises:
        NoVersion: It has none, or not the one that is named, or that one is retired.
        Unreachable: No service answers.
    """
    known = {each["name"] for each in api.get("/v1/policies")}
    for candidate in candidates:
        name, version = candidate.name, candidate.version
        if name not in known:
            raise NoVersion(f"The service has no policy {name!r}; upgrade it, or leave the policy out.")
        if not issubclass(POLICIES[name], FittedPolicy):
            continue
        usable = _usable(api, name)
        if version is None and not any(each["is_default"] for each in usable):
            raise NoVersion(
                f"The service has no default version of {name!r}; name a version as in {name}@1, or leave the policy"
                " out."
            )
        if version is not None and not any(each["version"] == version for each in usable):
            raise NoVersion(
                f"The service has no version {version} of {name!r} that is in use; `trim policies versions {name}`"
                " lists all."
            )


def _usable(api: Api, name: str) -> list[dict[str, Any]]:
    return [each for each in api.items(f"/v1/policies/{name}/versions") if each["retired_at"] is None]
