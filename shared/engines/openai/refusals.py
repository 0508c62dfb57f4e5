"""Turns refusals and reported failures of a server into errors that name what to change."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from shared.engines.openai.endpoint import Endpoint
from shared.engines.openai.errors import (
    AccessDenied,
    BodyRefused,
    IncompleteAnswer,
    ModelNotServed,
    NoRoomForStep,
    ServerBusy,
    ServerUnavailable,
)
from shared.engines.openai.reasons import Failed, ReportedFailure, shown, texts_of
from shared.engines.port import InputTooLong
from shared.errors import TrimError

_TEXTS = ("messages", "prompt", "input")
"""Parameters whose texts are never shown."""

_NOT_NOW = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY)
"""Statuses below 500 with which a server or a proxy did not accept a request that it may accept at once again."""

_DENIED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.FORBIDDEN)


def refusal(
    endpoint: Endpoint, status: int, failed: Failed, sent: Mapping[str, Any], *, wait_s: float | None
) -> TrimError:
    """Return the error for a request that was refused with a status.

    Args:
        endpoint: The server.
        status: HTTP status.
        failed: The reason, as the server reports it.
        sent: Body of the request.
        wait_s: Seconds that the server asks us to wait, if it does.
    """
    if status in _DENIED:
        return AccessDenied(
            f"The server of {endpoint.url_setting} rejects the API key (status {status}); set TRIM_OPENAI_API_KEY to a"
            " valid one."
        )
    if status == HTTPStatus.NOT_FOUND:
        return ModelNotServed(
            f"The server of {endpoint.url_setting} does not serve the model {endpoint.model}, or not at this path;"
            f" check {endpoint.model_setting}, {endpoint.url_setting} and {endpoint.style_setting}."
        )
    said = _said(failed, sent, endpoint)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return ServerBusy(_busy(endpoint, said), wait_s=wait_s)
    if (overflow := _overflow(endpoint, failed)) is not None:
        return overflow
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _NOT_NOW:
        return ServerUnavailable(
            f"The server of {endpoint.url_setting} failed with status {status}{said}; check its log.", wait_s=wait_s
        )
    return BodyRefused(
        f"The server of {endpoint.url_setting} refused the request with status {status}{said}; check"
        f" {endpoint.url_setting}, {endpoint.parameters_setting}, and that the server supports"
        f" {endpoint.style_setting}."
    )


def reported(endpoint: Endpoint, failure: ReportedFailure, sent: Mapping[str, Any]) -> TrimError:
    """Return the error for a failure that a server reports inside an answer of status 200.

    A busy server gets the request once more unless it has begun to write: what it wrote is paid for.
    """
    failed = failure.failed
    if (overflow := _overflow(endpoint, failed)) is not None:
        return overflow
    setting, said = endpoint.url_setting, _said(failed, sent, endpoint)
    if failed.is_busy and not failure.has_begun:
        return ServerBusy(_busy(endpoint, said))
    return IncompleteAnswer(f"The server of {setting} failed while it was writing{said}; check its log.")


def read_retry_after(header: str | None) -> float | None:
    """Read a `Retry-After` header as seconds; return `None` if it is missing or makes no sense."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _busy(endpoint: Endpoint, said: str) -> str:
    return f"The server of {endpoint.url_setting} is overloaded{said}; lower TRIM_CONCURRENCY, or add replicas."


def _overflow(endpoint: Endpoint, failed: Failed) -> TrimError | None:
    if failed.has_no_room_for_step:
        return NoRoomForStep(
            f"Question, steps and a step of max_step_tokens do not fit the context of {endpoint.model} together;"
            " submit with a lower max_step_tokens or max_steps, or a shorter question."
        )
    if failed.is_too_long:
        return InputTooLong(
            f"Question and steps do not fit the context of {endpoint.model}; submit a shorter question or lower"
            " max_steps."
        )
    return None


def _said(failed: Failed, sent: Mapping[str, Any], endpoint: Endpoint) -> str:
    """Return what the server says, as far as it may be shown, in parentheses."""
    hidden = [*texts_of({name: sent.get(name) for name in _TEXTS}), endpoint.api_key or ""]
    reason = shown(failed, request=hidden)
    return f" ({reason})" if reason else ""
