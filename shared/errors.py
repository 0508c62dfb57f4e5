"""One tree of errors, split by whether a retry can help.

The first line of an exception's docstring is its default message: one sentence that says what to do.
"""

from __future__ import annotations


class TrimError(Exception):
    """Something went wrong inside the service."""

    code: str = "internal"
    """Short, stable name of the error: stored with a failed problem, sent in problem+json bodies."""

    retryable: bool = False
    """Whether the same call may succeed later without anybody changing anything."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


def explain(error: TrimError) -> str:
    """Say what went wrong, with the first line of what a server said of it: for logs and terminals, not for clients."""
    said = str(error.__cause__ or "").strip().splitlines()
    return f"{error} ({said[0]})" if said else str(error)


class RetryableError(TrimError):
    """Something that was needed did not answer; the same call may succeed later."""

    code = "unavailable"
    retryable = True


class PermanentError(TrimError):
    """The call cannot succeed as it stands; change it before you send it again."""

    code = "invalid"
