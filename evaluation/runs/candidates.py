"""Candidates: policies that a run evaluates, as a person writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from pydantic import ValidationError

from services.api.schemas.submissions import PolicyChoice
from shared.domain.options import Wrappers
from shared.policies.registry import BadParameters, build_routing
from shared.policies.wrapping import Routing
from trim_client import BadPolicyText, parse_policy

SMALL_ONLY: Final = "small-only"
LARGE_ONLY: Final = "large-only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A policy with its parameters and wrappers."""

    label: str
    """As it was written, such as `pomdp@3:large_token_price=0.002,budget=300`."""
    name: str
    version: int | None
    parameters: Mapping[str, Any]
    wrappers: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `name[@version][:parameter=value,...]`; wrappers are written like parameters.

        Raises:
            UnknownPolicy: No policy has this name.
            BadParameters: The text has another form, or a parameter or wrapper is wrong.
        """
        label = text.strip()
        try:
            choice = parse_policy(label)
        except BadPolicyText as error:
            raise BadParameters(str(error)) from error
        made = cls(
            label=label,
            name=choice["name"],
            version=choice.get("version"),
            parameters=choice["parameters"],
            wrappers=choice.get("wrappers", {}),
        )
        made.routing  # noqa: B018 - it checks
        return made

    @property
    def curve(self) -> str:
        """What it has in common with other settings of the same policy: name, version and wrappers."""
        version = "" if self.version is None else f"@{self.version}"
        return " ".join([self.name + version, *(f"{name}={value}" for name, value in sorted(self.wrappers.items()))])

    @property
    def setting(self) -> str:
        """The curve, and what distinguishes this setting from the others on it."""
        return " ".join([self.curve, *(f"{name}={value}" for name, value in self.parameters.items())])

    @property
    def routing(self) -> Routing:
        """The policy with its wrappers; a fitted one is still without its artefact.

        Raises:
            UnknownPolicy: No policy has its name.
            BadParameters: A parameter or wrapper is wrong.
        """
        try:
            wrappers = PolicyChoice.model_validate(self.choice()).wrappers
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise BadParameters(f"Policy {self.label!r}, {first['loc'][-1]}: {first['msg']}.") from error
        return build_routing(self.name, self.parameters, Wrappers(**wrappers.model_dump()))

    def choice(self, version: int | None = None) -> dict[str, Any]:
        """Return the policy as a submission has it.

        Args:
            version: Version of a fitted policy, where the candidate leaves it open.
        """
        version = self.version or version
        chosen: dict[str, Any] = {"name": self.name, "parameters": dict(self.parameters)}
        if self.wrappers:
            chosen["wrappers"] = dict(self.wrappers)
        if version is not None:
            chosen["version"] = version
        return chosen
