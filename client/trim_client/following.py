"""How a stream of events is followed across lost connections. No input or output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import httpx2
from pydantic import ValidationError

from trim_client.attempts import Patience
from trim_client.calls import Id, problem_path
from trim_client.errors import Answer, NotTheService, TrimClientError, WaitTimedOut, error_of, unreachable
from trim_client.events import DecisionMade, Ended, Event, StepAccepted
from trim_client.models.problems import Problem
from trim_client.models.record import Decision, Step

EVENT_STREAM: Final = "text/event-stream"

NO_CONTENT: Final = 204
"""Status of a stream after its end: nothing follows."""

SILENCE_S: Final = 45.0
"""Seconds of silence after which a connection counts as lost: the service sends a comment each 15."""

LIMITED_SILENCE_S: Final = 10.0
"""The same where a time limit is to be observed: a connection on which comments arrive is never silent for longer."""


class Following:
    """Follows the events of one problem: where to continue, what an event means, when to give up."""

    def __init__(self, problem_id: Id, *, after: str | None, patience: Patience, address: str) -> None:
        """Begin after an event that is known, or at the first one.

        Raises:
            ValueError: The text is not an id.
        """
        self.path = f"{problem_path(problem_id)}/events"
        self.has_ended = False
        self._problem_id, self._last_id, self._patience, self._address = problem_id, after, patience, address

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the next connection."""
        return {} if self._last_id is None else {"Last-Event-ID": self._last_id}

    @property
    def silence_s(self) -> float:
        """Seconds of silence after which the next connection counts as lost."""
        left_s = self._patience.left_s
        return SILENCE_S if left_s is None else min(LIMITED_SILENCE_S, max(left_s, 0.001))

    def check(self, answer: Answer) -> None:
        """Check the beginning of an answer; its content is needed only for a refusal.

        Raises:
            Refused: The service refused the request.
            NotTheService: The answer is no stream of events.
        """
        if not answer.is_success:
            raise error_of(answer, address=self._address)
        if answer.status == NO_CONTENT:
            self.has_ended = True
            return
        if answer.headers.get("content-type", "").partition(";")[0].strip().lower() != EVENT_STREAM:
            raise NotTheService(f"{self._address} does not answer with a stream of events (status {answer.status}).")
        self._patience.hear()

    def hear(self, received: httpx2.ServerSentEvent) -> Event | None:
        """Return what an event means; `None` if this version does not know its kind.

        Raises:
            NotTheService: It holds other data than this API sends.
            WaitTimedOut: The time limit has passed.
        """
        self._patience.hear()
        try:
            event = _read(received)
        except ValidationError as error:
            raise NotTheService(f"{self._address} sent an event {received.event!r} that is not this API's.") from error
        self._last_id = received.id or self._last_id
        self.has_ended = isinstance(event, Ended)
        if self._patience.is_over and not self.has_ended:
            raise self._timed_out()
        return event

    def pause_s(self, error: Exception | None) -> float:
        """Return the seconds until the next connection, after one that failed, or ended before the problem.

        Raises:
            TrimClientError: There is none.
        """
        failure = error if isinstance(error, TrimClientError) else None
        if failure is None:
            failure = unreachable(error or ConnectionResetError(), address=self._address)
        if (delay_s := self._patience.pause_s(failure)) is not None:
            return delay_s
        if self._patience.is_over and failure.may_pass:
            raise self._timed_out() from error
        raise failure from (None if failure is error else error)

    def _timed_out(self) -> WaitTimedOut:
        return WaitTimedOut(f"The problem {self._problem_id} has not ended within the time limit; it goes on.", None)


def _read(received: httpx2.ServerSentEvent) -> Event | None:
    match received.event:
        case "decision":
            return DecisionMade(Decision.model_validate_json(received.data), received.id)
        case "step":
            return StepAccepted(Step.model_validate_json(received.data), received.id)
        case "end":
            return Ended(Problem.model_validate_json(received.data), received.id)
        case _:
            return None
