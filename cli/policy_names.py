"""Policies and their versions as commands name them: `pomdp`, or `pomdp@3`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

from stack.client import Api, NoVersion

_NAME: Final = re.compile(r"([a-z0-9-]{1,80})(?:@([1-9][0-9]{0,9}))?")


@dataclass(frozen=True, slots=True)
class PolicyName:
    """A policy, and one of its versions if the user names it."""

    name: str
    version: int | None = None

    @property
    def path(self) -> str:
        """Path of the policy's versions in the API."""
        return f"/v1/policies/{self.name}/versions"

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"


def _parse(text: str) -> PolicyName:
    found = _NAME.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a policy such as pomdp or pomdp@3")
    return PolicyName(found[1], int(found[2]) if found[2] else None)


def _parse_version(text: str) -> PolicyName:
    policy = _parse(text)
    if policy.version is None:
        raise typer.BadParameter(f"{text!r} names no version; write it as {text}@3")
    return policy


AnyPolicy = Annotated[PolicyName, typer.Argument(parser=_parse, metavar="NAME[@VERSION]", show_default=False)]
"""A policy; without a version, its default version for the running models."""

PolicyOnly = Annotated[PolicyName, typer.Argument(parser=_parse, metavar="NAME", show_default=False)]

VersionedPolicy = Annotated[PolicyName, typer.Argument(parser=_parse_version, metavar="NAME@VERSION")]
"""A version of a policy."""


def find_defaults(api: Api, name: str) -> list[dict[str, Any]]:
    """Read the default versions of a policy: one for each combination of models."""
    return list(api.get(PolicyName(name).path, {"is_default": "true", "limit": "200"})["items"])


def find_versions(api: Api, policy: PolicyName) -> list[dict[str, Any]]:
    """Read the version that is named, or the default versions.

    Raises:
        ApiRefused: The policy has no such version.
        NoVersion: None is named, and there is no default.
    """
    found = find_defaults(api, policy.name) if policy.version is None else [find_version(api, policy)]
    if not found:
        raise NoVersion(f"{policy} has no default version; `trim policies versions {policy}` lists all.")
    return found


def find_version(api: Api, policy: PolicyName) -> dict[str, Any]:
    """Read the version that is named, or the default for the models that the service runs.

    Raises:
        ApiRefused: The policy has no such version.
    """
    default = f"/v1/policies/{policy.name}/default"
    found: dict[str, Any] = api.get(default if policy.version is None else f"{policy.path}/{policy.version}")
    return found
