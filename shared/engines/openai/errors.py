"""Errors of servers. No message contains the API key, the question, steps, or text that the server sent."""

from __future__ import annotations

from shared.errors import PermanentError, RetryableError


class ServerUnavailable(RetryableError):
    """The model's server cannot be reached or fails; check that it runs where the settings point."""

    code = "engine_unavailable"


class IncompleteAnswer(RetryableError):
    """The model's server accepted the request but did not finish its answer; check that it runs, and its log."""

    code = "engine_unavailable"


class CircuitOpen(RetryableError):
    """The model's server failed many times in a row and gets no requests for some seconds; check that it runs."""

    code = "engine_unavailable"


class ServerBusy(ServerUnavailable):
    """The model's server is overloaded; lower TRIM_CONCURRENCY, or add replicas."""

    code = "engine_busy"

    def __init__(self, message: str, *, wait_s: float | None) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        """Seconds that the server asked us to wait, if it did."""


class UnreadableAnswer(RetryableError):
    """The answer is not that of an OpenAI-compatible server, or is cut off; check the URL in the settings."""

    code = "unreadable_answer"


class AnswerWithheld(PermanentError):
    """The content filter of the model's server withheld the answer; change the question or the model."""

    code = "answer_withheld"


class NoRoomForStep(PermanentError):
    """The model's context has no room for max_step_tokens after question and steps; lower max_step_tokens."""

    code = "no_room_for_step"


class AccessDenied(PermanentError):
    """The model's server rejects the API key; set TRIM_OPENAI_API_KEY to a valid one."""

    code = "access_denied"


class ModelNotServed(PermanentError):
    """The server does not serve the model; check its name and the URL in the settings."""

    code = "model_not_served"
