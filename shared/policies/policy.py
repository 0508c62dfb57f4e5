"""Base class of policies: validated parameters and a decision function."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from functools import cached_property
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from shared.domain.decisions import Decision, Observation, PolicyVersion
from shared.domain.options import Plan


class Policy(BaseModel, ABC):
    """A routing policy. Its fields are its parameters; users read its docstring in `GET /v1/policies`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    name: ClassVar[str]
    """Name by which a submission chooses it."""
    revision: ClassVar[int] = 1
    """Raise it whenever the same parameters would decide differently; stored with every decision."""

    @cached_property
    def version(self) -> PolicyVersion:
        """Identity of the policy as it decides: name, revision, and the digest of its parameters."""
        digest = hashlib.blake2b(self.model_dump_json().encode(), digest_size=8).hexdigest()
        return PolicyVersion(name=self.name, revision=self.revision, parameters_digest=digest)

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
