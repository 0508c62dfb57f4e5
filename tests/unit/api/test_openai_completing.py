"""Completions: the text, the reason of its end and its tokens; and the error if a problem has no solution."""

from __future__ import annotations

from typing import Any

import pytest

from services.api.openai.completing import complete
from services.api.openai.errors import NO_RETRY, Unsolved
from services.api.openai.requests import ChatRequest
from services.api.schemas.problems import Problem
from services.api.schemas.record import Step
from services.api.schemas.values import FAILURE_CODES
from shared.domain.ledger import Ledger
from shared.domain.status import StopReason

ID = "019afa00-0000-7000-8000-000000000001"
LEDGER = dict.fromkeys(Ledger.__dataclass_fields__, 0) | {"small_in": 5, "large_in": 7, "small_discarded": 100}


def problem(**fields: Any) -> Problem:
    shown = {
        "id": ID, "status": "succeeded", "question": "What?", "reference": None,
        "policy": {"name": "threshold", "revision": 2, "parameters": {}, "version": None, "wrappers": {}},
        "arm": None, "shadows": [], "lookahead": 0, "limits": {}, "sampling": {"seed": 3}, "step_timeout_s": 60,
        "max_attempts": 5, "when_prm_away": "wait", "when_large_away": "wait", "when_small_away": "wait",
        "away_patience_s": 60, "waits_for": [], "deadline_at": None, "batch_id": None, "batch_index": None, "steps": 2,
        "escalations": 1, "epoch": 1, "answer": "42", "verdict": "unverified", "stop_reason": "final_answer",
        "failure": None, "note": None, "ledger": LEDGER, "created_at": "2026-11-30T00:00:00Z", "started_at": None,
        "finished_at": None, "cancel_requested_at": None, "erased_at": None, "links": {}, **fields,
    }  # fmt: skip
    return Problem.model_validate(shown)


def steps(*texts: str) -> list[Step]:
    values: dict[str, Any] = {
        "author": "small", "finish": "separator", "tokens": 10, "estimated_tokens": 1, "score": None, "model": "m",
        "worker": "w", "waited_ms": 0, "worked_ms": 0, "accepted_at": "2026-11-30T00:00:00Z",
    }  # fmt: skip
    return [Step.model_validate({"step": index, "text": text, **values}) for index, text in enumerate(texts)]


def request(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "trim", "messages": [{"role": "user", "content": "What?"}], **fields})


def test_a_completion_has_the_steps_with_blank_lines_between_them_and_their_tokens() -> None:
    made = complete(problem(), steps("One.", "So \\boxed{42}."), request(metadata={"run": "1"}))
    [choice] = made.choices
    assert choice.message.content == "One.\n\nSo \\boxed{42}."
    assert (made.id, made.created) == (f"chatcmpl-{ID}", 0x019AFA000000 // 1000)
    assert (made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.total_tokens) == (12, 22, 34)
    assert (made.metadata, made.trim.answer, made.trim.seed) == ({"run": "1"}, "42", 3)
    assert "reasoning_content" not in choice.message.model_dump()


def test_thoughts_are_apart_from_the_text() -> None:
    made = complete(problem(), steps("<think>\nHm.", "<think>\nSo.\n</think>", "It is 42."), request(stop="So"))
    [choice] = made.choices
    assert (choice.message.reasoning_content, choice.message.content) == ("Hm.\n\nSo.", "It is 42.")


def test_tokens_are_counted_up_to_the_step_with_the_stop_string() -> None:
    made = complete(problem(), steps("One.", "Two.", "Three."), request(stop=["wo"]))
    [choice] = made.choices
    assert (choice.message.content, choice.finish_reason) == ("One.\n\nT", "stop")
    assert made.usage.completion_tokens == 22


@pytest.mark.parametrize("reason", StopReason)
def test_every_stop_reason_has_a_finish_reason(reason: StopReason) -> None:
    [choice] = complete(problem(stop_reason=reason), steps("One."), request()).choices
    is_limit = reason in ("max_steps", "token_limit", "size_limit", "step_cut")
    assert choice.finish_reason == ("length" if is_limit else "stop")


def test_what_a_filter_withheld_ends_a_completion() -> None:
    failed = problem(status="failed", stop_reason=None, failure={"code": "answer_withheld", "detail": "x"})
    [choice] = complete(failed, steps("One."), request()).choices
    assert (choice.finish_reason, choice.message.content) == ("content_filter", "One.")


STATUS = {
    "input_too_long": 400,
    "no_room_for_step": 400,
    "request_refused": 400,
    "thinking_took_all": 400,
    "large_away": 503,
}


@pytest.mark.parametrize("code", [each for each in FAILURE_CODES if each != "answer_withheld"])
def test_a_failure_is_an_error_whose_status_shows_whose_fault_it_is(code: str) -> None:
    failed = problem(status="failed", stop_reason=None, failure={"code": code, "detail": "It broke."})
    with pytest.raises(Unsolved) as unsolved:
        complete(failed, steps("One."), request())
    error = unsolved.value
    assert error.status == STATUS.get(code, 500)
    assert (error.param is not None) == (error.status == 400)
    assert str(error) == f"The problem {ID} ended without a solution: It broke."
    assert dict(error.headers) == ({"Retry-After": "5"} if error.status == 503 else dict(NO_RETRY))


@pytest.mark.parametrize(
    ("status", "code", "http"), [("cancelled", "problem_cancelled", 409), ("expired", "problem_expired", 504)]
)
def test_a_problem_that_was_ended_is_an_error(status: str, code: str, http: int) -> None:
    with pytest.raises(Unsolved) as unsolved:
        complete(problem(status=status, stop_reason=None), steps("One."), request())
    assert (unsolved.value.code, unsolved.value.status) == (code, http)
