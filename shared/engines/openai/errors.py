"""What can go wrong with a server. No message holds the API key, the question, steps, or what the server said."""

from __future__ import annotations

from shared.errors import PermanentError, RetryableError


class ServerUnavailable(RetryableError):
    """The model's server cannot be reached or fails; check that it runs where the settings say."""

    code = "engine_unavailable"


class AnswerBrokenOff(RetryableError):
    """The model's server took the request and did not answer to the end; check that it runs, and its log."""

    code = "engine_unavailable"


class ServerLeftAlone(RetryableError):
    """The model's server has failed many times in a row and is left alone for some seconds; check that it runs."""

    code = "engine_unavailable"


class ServerBusy(ServerUnavailable):
    """The model's server has too much to do; lower TRIM_CONCURRENCY, or give it more replicas."""

    code = "engine_busy"

    def __init__(self, message: str, *, wait_s: float | None) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        """Seconds to wait, as the server asked for them, if it did."""


class UnreadableAnswer(RetryableError):
    """What answered is no OpenAI-compatible server, or it broke off; check the URL in the settings."""

    code = "unreadable_answer"


class AnswerWithheld(PermanentError):
    """The model's server withholds its answer by a filter of its own; ask another question, or another model."""

    code = "answer_withheld"


class NoRoomForStep(PermanentError):
    """A step of max_step_tokens does not fit the model's context after question and steps; lower max_step_tokens."""

    code = "no_room_for_step"


class AccessDenied(PermanentError):
    """The model's server does not accept the API key; set TRIM_OPENAI_API_KEY to a valid one."""

    code = "access_denied"


class ModelNotServed(PermanentError):
    """The server does not serve the model; check its name and the URL in the settings."""

    code = "model_not_served"
