"""Errors by status, and what they hold."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from services.api.errors import WrongField
from tests.unit.client import samples
from tests.unit.client.samples import PROBLEM_ID
from tests.unit.client.service import Service, answer
from trim_client import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    NotTheService,
    RateLimited,
    Refused,
    ServiceFailed,
    TrimClientError,
    Unauthenticated,
    Unavailable,
    WaitTimedOut,
)
from trim_client.errors import Answer, ProblemDetails


def get(client: Any) -> Any:
    return client.problems.get(PROBLEM_ID)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, Unauthenticated),
        (403, Forbidden),
        (404, NotFound),
        (405, InvalidRequest),
        (408, Unavailable),
        (409, Conflict),
        (413, InvalidRequest),
        (418, InvalidRequest),
        (422, InvalidRequest),
        (429, RateLimited),
        (500, ServiceFailed),
        (503, Unavailable),
        (599, ServiceFailed),
    ],
)
def test_each_status_has_its_kind_of_error(service: Service, status: int, kind: type[Refused]) -> None:
    wrong = [WrongField(field="body.question", message="Input should not be blank.")]
    service.answers(answer(samples.refusal(status, "some_code", "It is wrong.", errors=wrong), status))
    with pytest.raises(TrimClientError) as raised:
        service.call(get, max_retries=0)
    error = raised.value
    assert type(error) is kind
    assert isinstance(error, Refused)
    assert (error.status, error.code, error.detail, error.request_id) == (status, "some_code", "It is wrong.", "r-1")
    assert [(each.field, each.message) for each in error.errors] == [("body.question", "Input should not be blank.")]
    assert str(error) == f"It is wrong. [{status} some_code, request r-1]"


@pytest.mark.parametrize(
    ("status", "text", "shown"),
    [
        (502, "<html><h1>Bad</h1></html>", "Bad Gateway. [502]"),
        (503, "", "Service Unavailable. [503]"),
        (403, "Not from  here.\n", "Not from here. [403]"),
        (500, "x" * 1000, f"{'x' * 300} [500]"),
        (520, "<html>", "Status 520. [520]"),
        (401, '{"detail": "Log in."}', '{"detail": "Log in."} [401]'),
        (500, "[" * 50_000, f"{'[' * 300} [500]"),
    ],
)
def test_a_gateway_that_refuses_in_its_own_words_is_a_refusal(
    service: Service, status: int, text: str, shown: str
) -> None:
    service.answers(answer(text, status))
    with pytest.raises(Refused) as refused:
        service.call(get, max_retries=0)
    assert str(refused.value) == shown
    assert refused.value.code == ""


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, "<html>A page</html>"), (200, {"id": "other"}), (200, [1]), (304, ""), (404, "<html>"), (405, "{}")],
)
def test_an_answer_of_something_else_is_not_the_service(service: Service, status: int, body: Any) -> None:
    service.answers(answer(body, status))
    with pytest.raises(NotTheService, match=rf"does not answer as this service \(status {status}\)\."):
        service.call(get)


def test_a_redirection_is_not_followed_and_named(service: Service) -> None:
    service.answers(answer("", 302, Location="https://login.example.com"))
    with pytest.raises(NotTheService, match=r"\(status 302, and redirects to https://login\.example\.com\)"):
        service.call(get, api_key="secret")
    assert len(service.requests) == 1


def test_errors_travel_between_processes() -> None:
    refused = NotFound(Answer(404, {"retry-after": "3"}, b""), ProblemDetails(code="not_found", detail="None."))
    late = WaitTimedOut("It is late.", None)
    for error in (refused, late):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))
    assert pickle.loads(pickle.dumps(refused)).retry_after_s == 3
