"""What a submission may choose. The service has defaults for all of it, and explains each field in `/openapi.json`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Required, TypedDict
from uuid import UUID

from trim_client.policy_text import parse_policy


class WrappersChoice(TypedDict, total=False):
    """How the policy is applied, whichever it is."""

    budget: int | None
    take_over: bool
    epsilon: float


class PolicyChoice(TypedDict, total=False):
    """Policy that decides which steps the large model writes."""

    name: Required[str]
    parameters: dict[str, Any]
    version: int | None
    wrappers: WrappersChoice


class ArmChoice(TypedDict, total=False):
    """Arm of a split: a policy that decides its share of the problems."""

    name: Required[str]
    weight: float
    policy: Required[PolicyChoice]


class LimitsChoice(TypedDict, total=False):
    """Bounds of the work on a problem."""

    max_steps: int
    max_step_tokens: int
    max_tokens: int


class SamplingChoice(TypedDict, total=False):
    """How the models sample tokens."""

    temperature: float
    top_p: float
    top_k: int
    seed: int | None


class Options(TypedDict, total=False):
    """Options of a problem."""

    policy: PolicyChoice | str
    """A policy, also as text such as `pomdp@3:budget=300`."""
    split: list[ArmChoice] | None
    shadows: list[PolicyChoice]
    lookahead: int | Literal["unlimited"]
    limits: LimitsChoice
    sampling: SamplingChoice
    step_timeout_s: float
    max_attempts: int
    when_prm_away: Literal["wait", "escalate", "accept"] | None
    when_large_away: Literal["wait", "accept", "fail"] | None
    when_small_away: Literal["wait", "large-only"] | None
    away_patience_s: float | None
    deadline_s: float | None


class NewProblem(Options, total=False):
    """A problem of a batch: its question, its answer if it is known, and its options."""

    question: Required[str]
    reference: str | float | None


class Conditions(TypedDict, total=False):
    """Which problems to list."""

    status: str | Sequence[str] | None
    """Status of the problems, or several of which they have one."""
    policy: str | None
    arm: str | None
    batch_id: UUID | str | None
    verdict: str | None
    stop_reason: str | None
    escalated: bool | None
    """Whether at least one step was escalated."""
    created_after: datetime | None
    """Earliest time of the submission, with a time zone."""
    created_before: datetime | None


def body_of(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields of a submission as the API takes them: a policy that is text becomes an object.

    Raises:
        BadPolicyText: It cannot be read.
    """
    policy = fields.get("policy")
    return {**fields, "policy": parse_policy(policy)} if isinstance(policy, str) else fields
