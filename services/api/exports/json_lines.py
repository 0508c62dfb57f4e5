"""Exports as JSON Lines: problems as the API shows them, and what was recorded of them as training data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from services.api.exports.portions import Portion
from services.api.schemas.problems import Problem
from shared.domain.roles import Author
from shared.domain.text import SEPARATOR, join_steps
from shared.domain.verdict import Verdict
from shared.store.records import RecordedDraft, RecordedStep

GOOD_FROM: Final = 0.7
"""Least PRM score that becomes the rating 1."""

BAD_BELOW: Final = 0.3
"""PRM score below which the rating is -1; between the two it is 0."""


def write_problems(portion: Portion) -> bytes:
    """Write problems as the API shows them, one a line."""
    return b"".join(each.model_dump_json().encode() + b"\n" for each in portion.problems)


def write_prm800k(portion: Portion) -> bytes:
    """Write the steps and the escalated drafts of each problem in the form of PRM800K, one problem a line."""
    return b"".join(_line(_labelled(each, portion)) for each in portion.problems if portion.steps.get(each.id))


def write_preferences(portion: Portion) -> bytes:
    """Write escalated drafts, each beside the large model's step that took its place, one pair a line."""
    return b"".join(_line(pair) for each in portion.problems for pair in _pairs(each, portion))


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _labelled(problem: Problem, portion: Portion) -> dict[str, Any]:
    steps, drafts = portion.steps[problem.id], portion.drafts.get(problem.id, ())
    labelled = [_step(step, [each for each in drafts if each.step == step.step]) for step in steps]
    times = (problem.started_at, problem.finished_at)
    return {
        "labeler": next((each.prm_model for each in drafts if each.prm_model), None),
        "timestamp": problem.finished_at and problem.finished_at.isoformat(),
        "generation": None,
        "is_quality_control_question": False,
        "is_initial_screening_question": False,
        "question": {
            "problem": problem.question,
            "ground_truth_solution": None,
            "ground_truth_answer": problem.reference,
            "pre_generated_steps": [each.text for each in steps],
            "pre_generated_answer": problem.answer,
            "pre_generated_verifier_score": None,
        },
        "label": {
            "steps": labelled,
            "total_time": round((times[1] - times[0]).total_seconds() * 1000) if times[0] and times[1] else None,
            "finish_reason": "solution" if problem.verdict == Verdict.CORRECT else "give_up",
        },
        "problem_id": str(problem.id),
        "status": problem.status,
        "verdict": problem.verdict,
    }


def _step(step: RecordedStep, drafts: list[RecordedDraft]) -> dict[str, Any]:
    """Label one step: the drafts that were rejected there, then the accepted step."""
    candidates = [(each.text, each.score, Author.SMALL, each.model) for each in drafts]
    candidates.append((step.text, step.score, Author(step.author), step.model))
    return {
        "completions": [
            {"text": text, "rating": _rating(score), "flagged": None, "score": score, "author": author, "model": model}
            for text, score, author, model in candidates
        ],
        "human_completion": None,
        "chosen_completion": len(drafts),
    }


def _rating(score: float | None) -> int | None:
    if score is None:
        return None
    return 1 if score >= GOOD_FROM else -1 if score < BAD_BELOW else 0


def _pairs(problem: Problem, portion: Portion) -> Iterator[dict[str, Any]]:
    steps = portion.steps.get(problem.id, ())
    for draft in portion.drafts.get(problem.id, ()):
        accepted = steps[draft.step] if draft.step < len(steps) else None
        if accepted is None or accepted.author != Author.LARGE or accepted.text == draft.text:
            continue
        yield {
            "prompt": problem.question + SEPARATOR + join_steps([each.text for each in steps[: draft.step]]),
            "chosen": accepted.text,
            "rejected": draft.text,
            "chosen_score": accepted.score,
            "rejected_score": draft.score,
            "chosen_model": accepted.model,
            "rejected_model": draft.model,
            "problem_id": str(problem.id),
            "step": draft.step,
            "decision": draft.number,
            "draft_id": str(draft.draft_id),
            "verdict": problem.verdict,
        }
