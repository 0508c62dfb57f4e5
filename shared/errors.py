"""One tree of errors, split by whether a retry can help.

The first line of an exception's docstring is its default message: one sentence that names the next step.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import ValidationError

from shared.docstrings import docstring_of


class Fault(StrEnum):
    """Whose fault an error is, and so what follows from it."""

    INPUT = "input"
    """The call's: it cannot succeed in this form, on whatever worker."""
    PASSING = "passing"
    """Nobody's for long: the same call may succeed soon, and is requested again a limited number of times."""
    WORKER = "worker"
    """The worker's, or its server's: other calls would fail as well, and this one is carried out elsewhere or later."""


class TrimError(Exception):
    """The service failed."""

    code: str = "internal"
    """Short, stable name of the error: stored with a failed problem, returned in problem+json bodies."""

    retryable: bool = False
    """Whether the same call may succeed later although nobody changed anything."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or docstring_of(type(self)).splitlines()[0])

    @property
    def fault(self) -> Fault:
        """Whose fault it is."""
        return Fault.PASSING if self.retryable else Fault.INPUT


def explain(error: TrimError) -> str:
    """Describe an error and the first line of its cause, for logs and terminals; a cause may hold internals.

    The first line of pydantic's `ValidationError` only counts its errors, so it is omitted.
    """
    if isinstance(error.__cause__, ValidationError):
        return str(error)
    cause = str(error.__cause__ or "").strip().splitlines()
    return f"{error} ({cause[0]})" if cause else str(error)


class RetryableError(TrimError):
    """A server did not answer; try again later."""

    code = "unavailable"
    retryable = True


class RefusedError(RetryableError):
    """A server refuses this process; correct its settings and restart it.

    For a client of the process it is a server that does not answer: a restart may mend it. The process itself ends.
    """

    code = "refused"


class PermanentError(TrimError):
    """The call cannot succeed in this form; change it before you send it again."""

    code = "invalid"
