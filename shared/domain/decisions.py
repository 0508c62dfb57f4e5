"""Decisions: what a policy sees, what it chooses, and the record of both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from shared.domain.artefacts import ModelIds
from shared.domain.drafts import Draft, Scoring
from shared.domain.roles import Author


class Action(StrEnum):
    """What happens to a draft."""

    ACCEPT = "accept"
    """Keep the small model's draft."""
    ESCALATE = "escalate"
    """Have the large model write the step from the same prefix."""


class DecidedBy(StrEnum):
    """What took a decision."""

    POLICY = "policy"
    RULE = "rule"
    """The service itself: there was nothing for a policy to judge, or the budget leaves it no choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """All that a policy may see at one step."""

    step: int
    score: float | None
    """PRM score of the draft; `None` for a policy that does not read scores."""
    previous_scores: tuple[float | None, ...] = ()
    """PRM scores of the accepted steps, aligned with them; `None` where the PRM has given no usable number (yet)."""
    previous_authors: tuple[Author, ...] = ()
    """Authors of the accepted steps, aligned with them; empty in observations stored before the field existed."""
    previous_tokens: tuple[int, ...] = ()
    """Tokens of the accepted steps, aligned with them; empty in observations stored before the field existed."""
    following_scores: tuple[float | None, ...] = ()
    """PRM scores of the drafts after this one, if the policy decides whole solutions; otherwise empty."""
    draft_tokens: int | None = None
    """`None` if nothing was drafted."""
    mean_logprob: float | None = None
    """Mean log-probability of the draft's tokens (natural logarithm); `None` if it was not needed or not reported."""
    min_logprob: float | None = None
    """Log-probability of the draft's least likely token."""
    thoughts: tuple[int, ...] = ()
    """Indices of the steps that are thoughts, among the accepted ones, the draft and the drafts after it."""
    is_final: bool = False
    """Whether the draft, if accepted, ends the solution."""
    large_out: int = 0
    """Large-model tokens in the trajectory so far, counted or estimated."""
    seed: int = 0
    """The problem's seed, for policies that draw lots."""
    question_digest: str = ""
    """Digest of the question, so that policies draw other lots for other problems with the same seed."""

    @property
    def is_thought(self) -> bool:
        """Whether the draft is a thought."""
        return self.step in self.thoughts

    @property
    def min_previous(self) -> float:
        """Least known score of the earlier steps; 1 if there is none."""
        return min(self._known, default=1.0)

    @property
    def product_previous(self) -> float:
        """Product of the known scores of the earlier steps; 1 if there is none."""
        return math.prod(self._known)

    @property
    def _known(self) -> list[float]:
        return [score for score in self.previous_scores if score is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was chosen, and why. Stored as returned, shown as stored."""

    action: Action
    reason: str
    """Short stable name, such as `score_below_threshold`; docs/glossary.md explains each."""
    value: float | None = None
    """Number that the decision rests on, such as the draft's score."""
    compared_with: float | None = None
    """Number that `value` was compared with, such as the threshold."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Further numbers that the decision rests on, by name, such as a belief."""
    propensity: float = 1.0
    """Probability that the policy takes this action on this observation; below 1 only where it explores."""

    @property
    def is_finite(self) -> bool:
        """Whether all its numbers are finite: a row takes no others."""
        numbers = (self.value, self.compared_with, self.propensity, *self.numbers.values())
        return all(each is None or math.isfinite(each) for each in numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyVersion:
    """Identifies a policy as it decides: the same version decides the same on the same observation."""

    name: str
    revision: int
    """Revision of the policy's code."""
    parameters_digest: str
    """Digest of its parameters, wrappers and artefact: 16 hexadecimal digits."""
    version: int | None = None
    """Number of its artefact among those of the policy; `None` for a policy without one."""

    @property
    def label(self) -> str:
        """Name with the number of the artefact, such as `pomdp@3`."""
        return self.name if self.version is None else f"{self.name}@{self.version}"


class Decider(Protocol):
    """A policy as the state machine uses it."""

    @property
    def version(self) -> PolicyVersion:
        """Identity that is stored with each decision."""

    @property
    def models(self) -> ModelIds | None:
        """The models that it was fitted on; it decides on the work of no others. `None` if any will do."""

    def decide(self, observation: Observation) -> Decision:
        """Choose what happens to a draft. Pure, total and deterministic."""

    def before_draft(self, observation: Observation) -> Decision | None:
        """Escalate a step that is not drafted yet, or return `None` to have it drafted.

        Called only if the plan skips drafts; the observation has no score and no draft. Pure, total and deterministic.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """One row of the audit: what was seen, what was chosen and by what, and the draft that was decided on."""

    number: int
    """Place among the problem's decisions, from 0; a step may be decided more than once."""
    step: int
    epoch: int
    """Epoch in which the decision was taken."""
    observation: Observation
    decision: Decision
    decided_by: DecidedBy
    policy: PolicyVersion
    """The policy in force in the process that decided, also where a rule decided."""
    draft: Draft | None
    """`None` if the policy works without drafts."""
    scoring: Scoring | None
    decided_at: datetime
