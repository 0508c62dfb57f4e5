"""Wrappers: how a policy is applied, whichever it is. A hard budget, taking over, and exploration."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from shared.domain.artefacts import ModelIds
from shared.domain.decisions import Action, Decision, Observation, PolicyVersion
from shared.domain.options import Plan, PolicyChoice, Wrappers
from shared.policies.lots import lot_of
from shared.policies.policy import Policy

UNWRAPPED = Wrappers()


@dataclass(frozen=True)
class Routing:
    """A policy and the wrappers around it: what decides a problem's steps."""

    policy: Policy
    wrappers: Wrappers = UNWRAPPED
    number: int | None = None
    """Number of the policy's artefact."""

    @cached_property
    def version(self) -> PolicyVersion:
        """Identity of the policy; the digest covers the wrappers too."""
        version = replace(self.policy.version, version=self.number)
        if self.wrappers == UNWRAPPED:
            return version
        content = f"{version.parameters_digest}/{json.dumps(asdict(self.wrappers), sort_keys=True)}"
        return replace(version, parameters_digest=hashlib.blake2b(content.encode(), digest_size=8).hexdigest())

    @property
    def models(self) -> ModelIds | None:
        """The models that the policy was fitted on."""
        return self.policy.models

    @property
    def choice(self) -> PolicyChoice:
        """The choice that it is built from, with all defaults but those of parameters without a value."""
        policy = self.policy
        return PolicyChoice(
            name=policy.name,
            revision=policy.revision,
            parameters=policy.model_dump(mode="json", exclude_none=True),
            version=self.number,
            wrappers=self.wrappers,
        )

    @property
    def plan(self) -> Plan:
        """The policy's plan, with what the wrappers need: exploration needs drafts and the large model."""
        plan = self.policy.plan
        if self.wrappers.epsilon > 0:
            plan = replace(plan, drafts=True, escalates=True)
        takes_over = plan.takes_over or self.wrappers.take_over
        return replace(plan, takes_over=takes_over, large_budget=self.wrappers.budget)

    def decide(self, observation: Observation) -> Decision:
        """Return the policy's decision, or by chance one that is drawn.

        With probability epsilon the action is drawn, each with probability 1/2. So the policy's own action is taken
        with probability 1 - epsilon / 2, and the other one with epsilon / 2: the propensity that is stored. A drawn
        decision keeps the numbers that the policy compared.
        """
        own, epsilon = self.policy.decide(observation), self.wrappers.epsilon
        if epsilon == 0:
            return own
        lot = lot_of(observation, "explore")
        if lot >= epsilon:
            return replace(own, propensity=1 - epsilon / 2)
        action = Action.ESCALATE if lot < epsilon / 2 else Action.ACCEPT
        compared = {"own_value": own.value, "own_compared_with": own.compared_with}
        return Decision(
            action=action,
            reason="explored",
            value=lot,
            compared_with=epsilon,
            numbers={**own.numbers, **{name: number for name, number in compared.items() if number is not None}},
            propensity=1 - epsilon / 2 if action is own.action else epsilon / 2,
        )

    def before_draft(self, observation: Observation) -> Decision | None:
        """Return the policy's decision; nothing is explored here, because there is no draft to accept."""
        return self.policy.before_draft(observation)
