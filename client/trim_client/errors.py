"""One tree of errors. Each is one sentence; those of the API have its status, code and request id."""

from __future__ import annotations

import email.utils
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

from pydantic import Field, ValidationError

from trim_client.models.base import Model
from trim_client.models.problems import Batch, Problem

PASSING = frozenset({408, 425, 429, 502, 503, 504})
"""Statuses with which the same request may succeed later. Some are those of gateways before the service."""

MAX_TEXT_CHARS = 300
"""Maximum length of the text of a response that is not this API's, in an error."""


class TrimClientError(Exception):
    """A request of this client failed."""

    may_pass: bool = False
    """Whether the same request may succeed later, although nobody changes anything."""


class UnusableProxy(TrimClientError):
    """A proxy of the environment cannot be used; change http_proxy, https_proxy, all_proxy or no_proxy."""


class Unreachable(TrimClientError):
    """No service answers at the address."""

    may_pass = True


class NotTheService(TrimClientError):
    """Something else than this service answers at the address."""


class WaitTimedOut(TrimClientError):
    """The time limit of a wait passed before the end. The service goes on."""

    def __init__(self, message: str, last: Problem | Batch | None) -> None:
        super().__init__(message, last)
        self.last = last
        """Problem or batch as it was last read; `None` if it was not read."""

    def __str__(self) -> str:
        return str(self.args[0])


class WrongField(Model):
    """A wrong field of a request."""

    field: str
    """Place of the field, such as `body.limits.max_steps`."""
    line: int | None = None
    """Number of the line, from 1; `None` unless the body was JSON Lines."""
    message: str
    """Explanation in one sentence."""


class ProblemDetails(Model):
    """Body of a refusal (RFC 9457)."""

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    code: str = ""
    """Short, stable name of the error."""
    request_id: str = ""
    """Id of the request in the logs of the service."""
    errors: list[WrongField] = Field(default_factory=list)
    """Wrong fields of the request, if any."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back over HTTP."""

    status: int
    headers: Mapping[str, str]
    """Headers, by their names in lower case."""
    content: bytes

    @property
    def is_success(self) -> bool:
        """Whether the request was granted."""
        return 200 <= self.status < 300  # noqa: PLR2004 - the class of statuses

    @property
    def retry_after_s(self) -> float | None:
        """Seconds of the header `Retry-After`, which has a number or a date; `None` without a usable one."""
        text = self.headers.get("retry-after", "").strip()
        try:
            seconds = float(text) if text[:1].isdigit() else _seconds_until(text)
        except (ValueError, TypeError, OverflowError):
            return None
        return max(0.0, seconds) if math.isfinite(seconds) else None


class Refused(TrimClientError):
    """The service, or a gateway before it, refused a request."""

    def __init__(self, answer: Answer, details: ProblemDetails) -> None:
        super().__init__(answer, details)
        self.status = answer.status
        """HTTP status."""
        self.code = details.code
        """Short, stable name of the error; empty if a gateway refused."""
        self.detail = details.detail
        """Explanation in one sentence."""
        self.request_id = details.request_id or answer.headers.get("x-request-id", "")
        """Id of the request in the logs of the service; empty if it is unknown."""
        self.errors = details.errors
        """Wrong fields of the request, if any."""
        self.retry_after_s = answer.retry_after_s
        """Seconds after which the service asks to retry; `None` if it does not."""
        self.may_pass = answer.status in PASSING

    def __str__(self) -> str:
        code, request = (
            (f" {self.code}" if self.code else ""),
            (f", request {self.request_id}" if self.request_id else ""),
        )
        return f"{self.detail} [{self.status}{code}{request}]"


class InvalidRequest(Refused):
    """The request is wrong; `errors` has the wrong fields."""


class Unauthenticated(Refused):
    """The API key is missing or unknown."""


class Forbidden(Refused):
    """The API key does not permit this."""


class NotFound(Refused):
    """Nothing has this id, name or path."""


class Conflict(Refused):
    """The request contradicts an earlier one: its idempotency key belongs to another request."""


class RateLimited(Refused):
    """The client sends too much; `retry_after_s` has when to continue."""


class Unavailable(Refused):
    """The service cannot answer now."""


class ServiceFailed(Refused):
    """The service failed; its log has the details under `request_id`."""


_KINDS: Mapping[int, type[Refused]] = {
    HTTPStatus.UNAUTHORIZED: Unauthenticated,
    HTTPStatus.FORBIDDEN: Forbidden,
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.CONFLICT: Conflict,
    HTTPStatus.TOO_MANY_REQUESTS: RateLimited,
    **dict.fromkeys((408, 425, 502, 503, 504), Unavailable),
}


def error_of(answer: Answer, *, address: str) -> TrimClientError:
    """Return the error that an answer without success means."""
    if (details := _read_details(answer)) is not None:
        return _kind(answer.status)(answer, details)
    # Gateways refuse in other forms, but nothing of this service leaves a path unknown without problem details.
    if answer.status < HTTPStatus.BAD_REQUEST or answer.status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        return not_the_service(answer, address=address)
    text = " ".join(answer.content[: 4 * MAX_TEXT_CHARS].decode("utf-8", "replace").split())
    title = _phrase(answer.status)
    is_page = not text or text.startswith("<")
    return _kind(answer.status)(answer, ProblemDetails(detail=f"{title}." if is_page else text[:MAX_TEXT_CHARS]))


def not_the_service(answer: Answer, *, address: str) -> NotTheService:
    """Return the error of an answer that is not this API's."""
    target = answer.headers.get("location")
    moved = f", and redirects to {target[:MAX_TEXT_CHARS]}" if target else ""
    return NotTheService(f"{address} does not answer as this service (status {answer.status}{moved}).")


def unreachable(error: Exception, *, address: str) -> Unreachable:
    """Return the error of a request that got no answer."""
    return Unreachable(f"No service answers at {address} ({type(error).__name__}).")


def _kind(status: int) -> type[Refused]:
    if status in _KINDS:
        return _KINDS[status]
    return ServiceFailed if status >= HTTPStatus.INTERNAL_SERVER_ERROR else InvalidRequest


def _read_details(answer: Answer) -> ProblemDetails | None:
    try:
        body = json.loads(answer.content)
        return ProblemDetails.model_validate(body) if "code" in body and "detail" in body else None
    except (ValueError, TypeError, RecursionError, ValidationError):
        return None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"


def _seconds_until(date: str) -> float:
    when = email.utils.parsedate_to_datetime(date)
    return ((when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
