"""What the user gives: the workload, and the speeds of the models. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from shared.errors import PermanentError

VLLM_BLOCK_TOKENS = 16
"""Tokens of a block of vLLM's prefix cache: of a cached prefix, the last block is computed again if it is not full."""


LARGEST = 1e9
"""No number that a plan is computed from is larger, so that results stay numbers."""


class BadInput(PermanentError):
    """A number that the capacity is computed from is not usable."""

    code = "bad_input"


def check(
    name: str,
    value: float,
    *,
    above: float = -math.inf,
    least: float = 0,
    below: float = math.inf,
    most: float = LARGEST,
) -> None:
    """Check a number.

    Raises:
        BadInput: It is not a number, or outside its range.
    """
    if math.isfinite(value) and value > above and least <= value < below and value <= most:
        return
    needed = f"above {above:g}" if math.isfinite(above) else f"at least {least:g}"
    needed += f" and below {below:g}" if math.isfinite(below) else ""
    needed += f" and at most {most:g}" if most < LARGEST or value > most else ""
    raise BadInput(f"{name} is {value:g}; it must be a number {needed}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What problems are like."""

    step_tokens: float = 60
    problem_steps: float = 10
    question_tokens: float = 150
    bytes_per_token: float = 4
    """Bytes of UTF-8 in one token, on average."""
    escalated: float = 0.2
    """Share of the decisions that escalate."""
    lookahead: int = 0
    drafts_per_step: float | None = None
    """Drafts that the small model writes for each step of a solution; `None` is the most that lookahead can waste."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("step_tokens", "problem_steps", "bytes_per_token"):
            check(name, getattr(self, name), above=0)
        check("question_tokens", self.question_tokens)
        check("escalated", self.escalated, most=1)
        check("lookahead", self.lookahead)
        if self.drafts_per_step is not None:
            check("drafts_per_step", self.drafts_per_step, least=1)

    @property
    def drafts(self) -> float:
        """Drafts per step: an escalation discards at most `lookahead` drafts that follow the escalated one."""
        return 1 + self.escalated * self.lookahead if self.drafts_per_step is None else self.drafts_per_step

    @property
    def prefix_tokens(self) -> float:
        """Question and steps before the step at hand, on average over a solution: Q + S (K - 1) / 2."""
        return self.question_tokens + self.step_tokens * (self.problem_steps - 1) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The speed of a model on one GPU."""

    tokens_per_s: float
    """Tokens per second of all sequences together: decoded ones, or, of the PRM, prefilled ones."""
    concurrency: float
    """Sequences in flight at that speed: `TRIM_CONCURRENCY` of the role."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        check("tokens_per_s", self.tokens_per_s, above=0)
        check("concurrency", self.concurrency, least=1)

    def seconds(self, tokens: float) -> float:
        """Return the time of one sequence while the GPU is full: tokens * concurrency / speed."""
        return tokens * self.concurrency / self.tokens_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """The speeds of the three models."""

    small: Engine = Engine(tokens_per_s=4_000, concurrency=64)
    prm: Engine = Engine(tokens_per_s=8_000, concurrency=8)
    large: Engine = Engine(tokens_per_s=500, concurrency=16)
    is_prm_cached: bool = True
    """Whether the PRM reads its prefix cache, as with `TRIM_ENGINE=vllm`. vLLM's server computes the whole prefix."""

    def score_tokens(self, workload: Workload) -> float:
        """Return the tokens that the PRM computes for one draft; those of a large step come with the draft after it.

        Cached: S (1 + escalated / drafts) and half a block. Otherwise the whole prefix and the draft.
        """
        if not self.is_prm_cached:
            return workload.prefix_tokens + workload.step_tokens
        unseen = workload.step_tokens * (1 + workload.escalated / workload.drafts)
        return unseen + VLLM_BLOCK_TOKENS / 2
