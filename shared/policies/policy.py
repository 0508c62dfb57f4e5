"""Base classes of policies: validated parameters, what was learned from data, and a decision function."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from functools import cached_property
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, PrivateAttr

from shared.domain.artefacts import ModelIds
from shared.domain.decisions import Decision, Observation, PolicyVersion
from shared.domain.options import Plan
from shared.policies.artefact import Artefact, BadArtefact


class Policy(BaseModel, ABC):
    """A routing policy. Its fields are its parameters; users read its docstring in `GET /v1/policies`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    name: ClassVar[str]
    """Name by which a submission chooses it."""
    revision: ClassVar[int] = 1
    """Raise it whenever the same parameters would decide differently; stored with every decision."""

    @cached_property
    def version(self) -> PolicyVersion:
        """Identity of the policy as it decides: name, revision, and the digest of all else that it decides with."""
        digest = hashlib.blake2b(self._identity().encode(), digest_size=8).hexdigest()
        return PolicyVersion(name=self.name, revision=self.revision, parameters_digest=digest)

    @property
    def models(self) -> ModelIds | None:
        """The models that it was fitted on; `None` if any will do."""
        return None

    @property
    def plan(self) -> Plan:
        """Models that it needs at each step."""
        return Plan()

    @abstractmethod
    def decide(self, observation: Observation) -> Decision:
        """Choose what happens to the draft. Called only for drafts with a usable score, if the plan asks for scores."""

    def before_draft(self, observation: Observation) -> Decision | None:  # noqa: ARG002 - most policies never do it
        """Have the step drafted; a policy whose plan skips drafts may escalate it instead."""
        return None

    def _identity(self) -> str:
        return self.model_dump_json(exclude_none=True)


class FittedPolicy(Policy):
    """A policy that decides with an artefact. Parameters can be checked without one; decisions need `fitted`."""

    _artefact: Artefact | None = PrivateAttr(default=None)

    @property
    def artefact(self) -> Artefact | None:
        """The artefact that it decides with; `None` before `fitted`."""
        return self._artefact

    def fitted(self, artefact: Artefact) -> Self:
        """Return a copy that decides with an artefact. This may take a while; callers keep the result.

        Raises:
            BadArtefact: The artefact is another policy's, or does not hold what this policy needs.
        """
        if artefact.card.policy != self.name:
            raise BadArtefact(f"This artefact is for the policy {artefact.card.policy!r}, not for {self.name!r}.")
        made = type(self).model_validate(self.model_dump())
        made._artefact = artefact  # noqa: SLF001 - of the same class
        made._prepare(artefact)  # noqa: SLF001
        return made

    @property
    def models(self) -> ModelIds | None:
        """The models that its artefact was fitted on."""
        return self._artefact.models if self._artefact else None

    @abstractmethod
    def _prepare(self, artefact: Artefact) -> None:
        """Check the artefact, and build from it what `decide` needs.

        Raises:
            BadArtefact: It does not hold what this policy needs.
        """

    def _identity(self) -> str:
        return super()._identity() + (self._artefact.digest if self._artefact else "")
