"""What the submitter chose: fixed for the life of a problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, assert_never

from shared.domain.roles import WorkerRole


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn. The defaults are those of the method's released code."""

    temperature: float = 0.7
    """0 is greedy."""
    top_p: float = 0.8
    top_k: int = 20
    """0 is no limit."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the work on one problem."""

    max_steps: int = 30
    max_step_tokens: int = 512
    max_tokens: int = 4096
    """Tokens of the trajectory at which it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which models a policy needs at every step, derived from the policy before the first one."""

    drafts: bool = True
    """The small model drafts each step; otherwise the large model writes the whole solution."""
    scores: bool = True
    """The PRM scores each draft."""
    escalates: bool = True
    """The policy may escalate to the large model."""
    confidence: bool = False
    """The small model's engine reports the log-probabilities of each draft."""
    takes_over: bool = False
    """After an escalation the large model writes the rest of the solution."""
    decides_whole: bool = False
    """Steps are decided only once the small model has drafted the rest of the solution."""
    skips_drafts: bool = False
    """The policy may escalate a step before the small model has drafted it. Nothing is then drafted ahead."""
    large_budget: int | None = None
    """Large-model tokens that the problem may use; `None` is no limit."""


class WhenPrmAway(StrEnum):
    """What happens to drafts while no PRM worker is there to score them."""

    WAIT = "wait"
    ESCALATE = "escalate"
    """The large model writes the steps."""
    ACCEPT = "accept"
    """The small model's drafts are accepted without a score."""


class WhenLargeAway(StrEnum):
    """What happens to escalations while no worker of the large model is there."""

    WAIT = "wait"
    ACCEPT = "accept"
    """The small model's drafts are accepted in their place."""
    FAIL = "fail"
    """The problem fails."""


class WhenSmallAway(StrEnum):
    """What happens to steps while no worker of the small model is there to draft them."""

    WAIT = "wait"
    LARGE_ONLY = "large-only"
    """The large model writes the steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridging:
    """How a problem goes on without a role that is away; by default it waits."""

    when_prm_away: WhenPrmAway = WhenPrmAway.WAIT
    when_large_away: WhenLargeAway = WhenLargeAway.WAIT
    when_small_away: WhenSmallAway = WhenSmallAway.WAIT
    away_patience_s: float = 60.0
    """Seconds that a role is away before the problem goes on without it."""

    def bridges(self, role: WorkerRole, plan: Plan) -> bool:
        """Tell whether a problem with this plan goes on without a role, or fails; otherwise it waits."""
        match role:
            case WorkerRole.SMALL:
                return self.when_small_away is WhenSmallAway.LARGE_ONLY and plan.escalates
            case WorkerRole.LARGE:
                is_accepting = self.when_large_away is WhenLargeAway.ACCEPT
                return self.when_large_away is WhenLargeAway.FAIL or (is_accepting and plan.drafts)
            case WorkerRole.PRM:
                is_escalating = self.when_prm_away is WhenPrmAway.ESCALATE
                return self.when_prm_away is WhenPrmAway.ACCEPT or (is_escalating and plan.escalates)
            case _:
                assert_never(role)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the submitter chose for one problem."""

    plan: Plan = field(default_factory=Plan)
    lookahead: int | None = 0
    """Steps that the small model may draft ahead of the last accepted one; `None` is unlimited."""
    limits: Limits = field(default_factory=Limits)
    sampling: Sampling = field(default_factory=Sampling)
    step_timeout_s: float = 60.0
    """Seconds after which a step is requested again; doubles with each attempt, up to an hour."""
    max_attempts: int = 5
    """Number of times that a step is requested before the problem fails."""
    bridging: Bridging = field(default_factory=Bridging)
    deadline_at: datetime | None = None
    """When the problem expires if it is still unsolved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrappers:
    """How a policy is applied, whichever it is."""

    budget: int | None = None
    """Large-model tokens that the problem may use; `None` is no limit. Where it has no room, drafts are accepted."""
    take_over: bool = False
    """After the first escalation the large model writes the rest of the solution."""
    epsilon: float = 0.0
    """Share of the decisions that are drawn by lot, so that other policies can be evaluated on the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChoice:
    """The policy that the submitter chose. The orchestrator builds it from this."""

    name: str
    revision: int
    """Revision of the policy's code when the problem was submitted."""
    parameters: Mapping[str, Any]
    version: int | None = None
    """Number of the artefact, for a policy that decides with one."""
    wrappers: Wrappers = field(default_factory=Wrappers)
