"""Turns a problem that has ended into a completion, or into the error that explains why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from uuid import UUID

from services.api.errors import RETRY_AFTER_S
from services.api.openai.errors import Unsolved
from services.api.openai.requests import ChatRequest
from services.api.openai.responses import (
    ChatCompletion,
    CompletionChoice,
    CompletionMessage,
    CompletionUsage,
    FinishReason,
    Solution,
)
from services.api.openai.stopping import StopStrings
from services.api.schemas.problems import Problem
from services.api.schemas.record import Step
from shared.domain.status import Status, StopReason
from shared.domain.text import SEPARATOR
from shared.domain.thoughts import is_thought, without_mark

WITHHELD: Final = "answer_withheld"
"""Code of a failure that OpenAI's API has as an end: a server's filter withheld the rest of the solution."""

_FINISH: Final[Mapping[StopReason, FinishReason]] = {
    StopReason.FINAL_ANSWER: "stop",
    StopReason.DEGENERATE: "stop",
    StopReason.REPEATED: "stop",
    StopReason.MAX_STEPS: "length",
    StopReason.TOKEN_LIMIT: "length",
    StopReason.SIZE_LIMIT: "length",
    StopReason.STEP_CUT: "length",
}
"""`length` means that a higher limit might have given more text."""

_BAD_REQUEST, _FAILED = HTTPStatus.BAD_REQUEST, HTTPStatus.INTERNAL_SERVER_ERROR

_REFUSED: Final[Mapping[str, tuple[str, str]]] = {
    "input_too_long": ("context_length_exceeded", "messages"),
    "no_room_for_step": ("no_room_for_step", "trim.limits.max_step_tokens"),
    "request_refused": ("request_refused", "messages"),
    "thinking_took_all": ("thinking_took_all", "trim.limits.max_step_tokens"),
}
"""Failures that are the request's fault, by code: the code in OpenAI's form, and the parameter to change."""

_AWAY: Final = frozenset({"large_away"})
"""Failures after which the same request may succeed once something is back."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one step as clients see it."""

    text: str
    is_thought: bool


class Shown:
    """The text of a solution as clients see it: steps with blank lines between them, up to the first stop string.

    Thoughts are a text apart, in which stop strings do not count.
    """

    def __init__(self, stops: Sequence[str] | None) -> None:
        """Take the stop strings of the request."""
        self._stops = StopStrings(stops or ())
        self._begun: set[bool] = set()

    @property
    def has_stopped(self) -> bool:
        """Whether a stop string ended the solution."""
        return self._stops.has_stopped

    def add(self, step: str) -> Piece:
        """Add a step, and return what of the text is certain now."""
        thinks = is_thought(step)
        text = (SEPARATOR if thinks in self._begun else "") + without_mark(step)
        self._begun.add(thinks)
        return Piece(text if thinks else self._stops.feed(text), thinks)

    def finish(self) -> str:
        """Return the rest of the text, once all steps are there."""
        return self._stops.finish()


def complete(problem: Problem, steps: Sequence[Step], body: ChatRequest) -> ChatCompletion:
    """Make the completion of a problem that has ended.

    Raises:
        Unsolved: It ended without a solution.
    """
    shown = Shown(body.stop)
    texts: dict[bool, list[str]] = {False: [], True: []}
    used: list[Step] = []
    for step in steps:
        piece = shown.add(step.text)
        texts[piece.is_thought].append(piece.text)
        used.append(step)
        if shown.has_stopped:
            break
    texts[False].append(shown.finish())
    finish_reason = find_finish(problem, has_stopped=shown.has_stopped)
    message = CompletionMessage(content="".join(texts[False]), reasoning_content="".join(texts[True]) or None)
    return ChatCompletion(
        id=completion_id(problem.id),
        created=created_at(problem.id),
        model=body.model,
        choices=[CompletionChoice(message=message, finish_reason=finish_reason)],
        usage=count_usage(problem, used),
        metadata=body.metadata,
        trim=describe(problem),
    )


def find_finish(problem: Problem, *, has_stopped: bool) -> FinishReason:
    """Return why a solution ended.

    Raises:
        Unsolved: The problem ended without one.
    """
    if has_stopped:
        return "stop"
    if problem.stop_reason is not None:
        return _FINISH[problem.stop_reason]
    if problem.failure is not None and problem.failure.code == WITHHELD:
        return "content_filter"
    raise _unsolved(problem)


def completion_id(problem_id: UUID) -> str:
    """Return the id of a problem's completion."""
    return f"chatcmpl-{problem_id}"


def created_at(problem_id: UUID) -> int:
    """Return the time of a problem's submission in seconds since 1970: the first 48 bits of its id, a UUIDv7."""
    return (problem_id.int >> 80) // 1000


def count_usage(problem: Problem, steps: Iterable[Step]) -> CompletionUsage:
    """Count the tokens of a completion.

    Args:
        problem: The problem.
        steps: Its steps, up to the one in which a stop string occurs.
    """
    prompt_tokens = problem.ledger.small_in + problem.ledger.large_in
    completion_tokens = sum(step.tokens + step.estimated_tokens for step in steps)
    return CompletionUsage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )


def describe(problem: Problem) -> Solution:
    """Describe what OpenAI's API does not have."""
    assert problem.sampling.seed is not None, "a seed is drawn where none was chosen"
    return Solution(
        problem_id=problem.id,
        status=problem.status,
        policy=problem.policy,
        arm=problem.arm,
        steps=problem.steps,
        escalations=problem.escalations,
        answer=problem.answer,
        verdict=problem.verdict,
        stop_reason=problem.stop_reason,
        seed=problem.sampling.seed,
        ledger=problem.ledger,
        note=problem.note,
        links=problem.links,
    )


def _unsolved(problem: Problem) -> Unsolved:
    """Return why a problem has no solution, with a status that shows at whom the fault lies."""
    begin = f"The problem {problem.id} ended without a solution"
    match problem.status:
        case Status.CANCELLED:
            return Unsolved(f"{begin}: it was cancelled.", code="problem_cancelled", status=HTTPStatus.CONFLICT)
        case Status.EXPIRED:
            message = f"{begin}: its deadline passed; send a later one in `trim.deadline_s`, or none."
            return Unsolved(message, code="problem_expired", status=HTTPStatus.GATEWAY_TIMEOUT)
        case _:
            assert problem.failure is not None, "a problem that failed has the reason"
            message = f"{begin}: {problem.failure.detail}"
            if problem.failure.code in _AWAY:
                return Unsolved(
                    message,
                    code=problem.failure.code,
                    status=HTTPStatus.SERVICE_UNAVAILABLE,
                    headers={"Retry-After": str(RETRY_AFTER_S)},
                )
            code, param = _REFUSED.get(problem.failure.code, (problem.failure.code, None))
            return Unsolved(message, code=code, status=_BAD_REQUEST if param else _FAILED, param=param)
