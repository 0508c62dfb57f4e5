"""Errors of servers. No message contains the API key, the question or steps; see `reasons` for what a server says."""

from __future__ import annotations

from shared.engines.port import EngineUnfit
from shared.errors import PermanentError


class ServerUnavailable(EngineUnfit):
    """The model's server cannot be reached or fails; check that it runs where the settings point."""

    code = "engine_unavailable"

    def __init__(self, message: str | None = None, *, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        """Seconds that the server asked us to wait, if it did."""


class IncompleteAnswer(EngineUnfit):
    """The model's server accepted the request but did not finish its answer; check that it runs, and its log."""

    code = "engine_unavailable"


class ServerBusy(ServerUnavailable):
    """The model's server is overloaded; lower TRIM_CONCURRENCY, or add replicas."""

    code = "engine_busy"
    may_be_the_calls = False


class UnreadableAnswer(EngineUnfit):
    """The answer is not that of an OpenAI-compatible server, or is cut off; check the URL in the settings."""

    code = "unreadable_answer"


class AnswerWithheld(PermanentError):
    """The content filter of the model's server withheld the answer; change the question or the model."""

    code = "answer_withheld"


class NoRoomForStep(PermanentError):
    """The model's context has no room for max_step_tokens after question and steps; lower max_step_tokens."""

    code = "no_room_for_step"


class BodyRefused(EngineUnfit):
    """The model's server refuses the request; check its URL, and that it supports what the settings choose."""

    code = "request_refused"

    teaches: bool = False
    """Whether it names parameters that later requests do without, so that this one is worth sending again."""


class AccessDenied(EngineUnfit):
    """The model's server rejects the API key; set TRIM_OPENAI_API_KEY to a valid one."""

    code = "access_denied"
    may_be_the_calls = False


class ModelNotServed(EngineUnfit):
    """The server does not serve the model; check its name and the URL in the settings."""

    code = "model_not_served"
    may_be_the_calls = False
