"""Values that later versions add to: the API describes them as texts and lists those of this version as examples.

docs/glossary.md explains each. Clients must expect others.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

REASONS = (
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
)
"""Reasons of decisions."""

FAILURE_CODES = (
    "attempts_exhausted",
    "no_output",
    "policy_models_differ",
    "policy_crashed",
    "decision_not_finite",
    "unreadable",
    "large_away",
    "input_too_long",
    "no_room_for_step",
    "request_refused",
    "answer_withheld",
    "thinking_took_all",
    "crashes_workers",
)
"""Codes of the failures of problems."""

ERROR_CODES = (
    "malformed_body",
    "malformed_json",
    "unauthenticated",
    "key_expired",
    "key_revoked",
    "scope_missing",
    "default_tenant_only",
    "not_found",
    "no_such_path",
    "method_not_allowed",
    "request_timeout",
    "idempotency_conflict",
    "tenant_exists",
    "key_ended",
    "body_too_large",
    "unsupported_content_encoding",
    "unsupported_media_type",
    "batch_too_large",
    "line_too_long",
    "stream_not_kept",
    "format_unavailable",
    "invalid_request",
    "invalid",
    "unknown_policy",
    "unknown_policy_version",
    "policy_version_retired",
    "no_default_policy_version",
    "bad_policy_parameters",
    "unfit_shadow",
    "bad_cursor",
    "place_beyond_record",
    "rate_limited",
    "backlog_full",
    "cursor_expired",
    "internal",
    "database_unavailable",
    "database_busy",
    "problem_locked",
    "schema_outdated",
    "code_outdated",
    "running_models_unknown",
    "unavailable",
)
"""Codes of problem details."""

Reason = Annotated[str, Field(examples=[*REASONS])]
FailureCode = Annotated[str, Field(examples=[*FAILURE_CODES])]
ErrorCode = Annotated[str, Field(examples=[*ERROR_CODES])]
