"""Fields whose values a later service may add to: editors offer those of this version, and any other text is accepted.

docs/glossary.md of the service explains each value.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

Status: TypeAlias = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"] | str
BatchStatus: TypeAlias = Literal["running", "cancelling", "ended"] | str
ServiceStatus: TypeAlias = Literal["ready", "degraded", "unavailable"] | str
StopReason: TypeAlias = (
    Literal["final_answer", "max_steps", "token_limit", "size_limit", "degenerate", "step_cut", "repeated"] | str
)
Verdict: TypeAlias = Literal["correct", "incorrect", "no_answer", "unverified"] | str
Author: TypeAlias = Literal["small", "large"] | str
Role: TypeAlias = Literal["small", "large", "prm"] | str
Finish: TypeAlias = Literal["separator", "ended", "length"] | str
Action: TypeAlias = Literal["accept", "escalate"] | str
DecidedBy: TypeAlias = Literal["policy", "rule"] | str
Skip: TypeAlias = Literal["no_draft", "models_differ", "no_time", "unusable", "crashed"] | str
WhenPrmAway: TypeAlias = Literal["wait", "escalate", "accept"] | str
WhenLargeAway: TypeAlias = Literal["wait", "accept", "fail"] | str
Lookahead: TypeAlias = int | Literal["unlimited"] | str
WhenSmallAway: TypeAlias = Literal["wait", "large-only"] | str
Reason: TypeAlias = (
    Literal[
        "score_below_threshold",
        "score_at_least_threshold",
        "threshold_without_score",
        "confidence_below_threshold",
        "confidence_at_least_threshold",
        "no_confidence",
        "least_score_below_threshold",
        "least_score_at_least_threshold",
        "thought",
        "explored",
        "budget_spent",
        "large_away",
        "prm_away",
        "small_away",
        "taken_over",
        "probability_above_cut",
        "probability_at_most_cut",
        "small_only",
        "large_only",
        "lot_drawn",
        "lot_not_drawn",
        "gain_above_price",
        "gain_at_most_price",
        "draft_below_price",
        "model_ended",
        "degenerate_draft",
        "invalid_score",
    ]
    | str
)
