"""The versions of fitted policies that a service has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.runs.candidates import Candidate
from shared.policies.policy import FittedPolicy
from shared.policies.registry import POLICIES
from stack.client import Api, NoVersion


def check_versions(api: Api, candidates: Sequence[Candidate]) -> None:
    """Check that the service has each policy, and a version of each fitted one, before anything is submitted.

    Raises:
        NoVersion: It has none, or not the one that is named, or that one is retired or of models that do not run.
        Unreachable: No service answers.
    """
    known = {each["name"] for each in api.get("/v1/policies")}
    for candidate in candidates:
        name = candidate.name
        if name not in known:
            raise NoVersion(f"The service has no policy {name!r}; upgrade it, or leave the policy out.")
        if issubclass(POLICIES[name], FittedPolicy):
            _check_models(api, candidate.label, _usable(api, candidate))


def _usable(api: Api, candidate: Candidate) -> Sequence[Mapping[str, Any]]:
    """Return the versions that a candidate may get: the one that it names, or the defaults."""
    name, version = candidate.name, candidate.version
    in_use = [each for each in api.items(f"/v1/policies/{name}/versions") if each["retired_at"] is None]
    found = [each for each in in_use if (each["is_default"] if version is None else each["version"] == version)]
    if found:
        return found
    if version is None:
        raise NoVersion(
            f"The service has no default version of {name!r}; name a version as in {name}@1, or leave the policy out."
        )
    raise NoVersion(
        f"The service has no version {version} of {name!r} that is in use; `trim policies versions {name}` lists all."
    )


def _check_models(api: Api, label: str, versions: Sequence[Mapping[str, Any]]) -> None:
    """Check that the models of a version run. A role without a worker that is up is not checked."""
    running = {part["name"]: part["models"] for part in api.get("/health/ready")["parts"] if part["models"]}
    others = [_other(each["models"], running) for each in versions]
    if all(others):
        raise NoVersion(f"{label} {others[0]}; name a version for the running models, or leave the policy out.")


def _other(models: Mapping[str, str], running: Mapping[str, Sequence[str]]) -> str | None:
    for role, names in running.items():
        if models[role] not in names:
            return f"was fitted on the {role} model {models[role]}, but the service runs {' and '.join(names)}"
    return None
