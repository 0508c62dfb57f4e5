"""Responses as the service makes them: built with its own schemas."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from services.api.errors import ProblemDetails
from services.api.schemas import problems, record
from services.api.schemas.submissions import LimitsChoice, SamplingChoice, WrappersChoice

PROBLEM_ID = UUID("0193ad2e-6a1c-7cc3-98c4-dc0c0c07398f")
BATCH_ID = UUID("0193ad2e-6a1c-7cc3-98c4-dc0c0c073990")
NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)

LEDGER = problems.Ledger(
    small_kept=40, small_discarded=12, small_wasted=3, small_estimated=0, small_in=100, large_out=20, large_wasted=0,
    large_estimated=0, large_in=50, prm_tokens=200, prm_estimated=0, small_calls=3, large_calls=1, prm_calls=3,
)  # fmt: skip


def problem(status: str = "running", **changes: Any) -> dict[str, Any]:
    """Return a problem as the API does."""
    has_ended = status not in {"queued", "running"}
    values = {
        "id": PROBLEM_ID, "status": status, "question": "What is 6 times 7?", "reference": None,
        "policy": problems.Policy(
            name="threshold", revision=2, parameters={"threshold": 0.5}, version=None, wrappers=WrappersChoice()
        ),
        "arm": None, "shadows": [], "lookahead": 0, "limits": LimitsChoice(), "sampling": SamplingChoice(seed=7),
        "step_timeout_s": 60.0, "max_attempts": 5, "when_prm_away": "wait", "when_large_away": "wait",
        "when_small_away": "wait", "away_patience_s": 60.0, "waits_for": [], "deadline_at": None, "batch_id": None,
        "batch_index": None, "steps": 2, "escalations": 1, "epoch": 1, "answer": "42" if has_ended else None,
        "verdict": "unverified" if has_ended else None,
        "stop_reason": "final_answer" if status == "succeeded" else None, "failure": None, "note": None,
        "ledger": LEDGER, "created_at": NOW, "started_at": NOW, "finished_at": NOW if has_ended else None,
        "cancel_requested_at": None, "erased_at": None, "links": {"self": f"/v1/problems/{PROBLEM_ID}"},
    }  # fmt: skip
    return problems.Problem.model_validate(values | changes).model_dump(mode="json")


def batch(ended: int = 0, size: int = 2, **changes: Any) -> dict[str, Any]:
    """Return a batch as the API does."""
    statuses = {"succeeded": ended, "running": size - ended}
    values = {
        "id": BATCH_ID, "created_at": NOW, "arms": {}, "links": {}, "size": size,
        "statuses": {name: count for name, count in statuses.items() if count}, "verdicts": {}, "steps": 4,
        "escalations": 1, "ledger": LEDGER, "cancel_requested_at": None, "failures": [],
        "status": "ended" if ended == size else "running",
    }  # fmt: skip
    return problems.Batch.model_validate(values | changes).model_dump(mode="json")


def step(index: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a step as the API does."""
    values = {
        "step": index, "author": "small", "text": f"Step {index}.", "finish": "separator", "tokens": 5, "score": 0.9,
        "model": "small@1", "worker": "small-0", "waited_ms": 1.0, "worked_ms": 2.0, "accepted_at": NOW,
    }  # fmt: skip
    return record.Step.model_validate(values | changes).model_dump(mode="json")


def decision(number: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a decision as the API does."""
    index = changes.get("step", number)
    observation = {
        "step": index, "score": 0.9, "previous_scores": [], "previous_authors": [], "previous_tokens": [],
        "following_scores": [], "draft_tokens": 5, "mean_logprob": None, "min_logprob": None, "thoughts": [],
        "is_final": False, "large_out": 0, "seed": 7, "question_digest": "00",
    } | changes.pop("observation", {})  # fmt: skip
    values = {
        "number": number, "step": index, "epoch": 0, "decided_at": NOW, "decided_by": "policy",
        "policy": {"name": "threshold", "revision": 2, "parameters_digest": "00", "version": None},
        "observation": observation, "action": "accept", "reason": "score_at_least_threshold", "value": 0.9,
        "compared_with": 0.5, "numbers": {}, "propensity": 1.0, "draft": draft(), "scoring": None, "shadows": [],
    }  # fmt: skip
    return record.Decision.model_validate(values | changes).model_dump(mode="json")


def draft(text: str | None = "A draft.") -> dict[str, Any]:
    """Return a draft as the API does."""
    values = {
        "id": PROBLEM_ID, "prefix_digest": "00", "text": text, "finish": "separator", "tokens": 5, "prompt_tokens": 9,
        "cached_tokens": 0, "model": "small@1", "worker": "small-0", "waited_ms": 1.0, "worked_ms": 2.0,
    }  # fmt: skip
    return record.Draft.model_validate(values).model_dump(mode="json")


def refusal(status: int, code: str, detail: str = "It is refused.", **more: Any) -> dict[str, Any]:
    """Return problem details as the API does."""
    made = ProblemDetails(title="Title", status=status, detail=detail, code=code, request_id="r-1", **more)
    return made.model_dump(mode="json")
