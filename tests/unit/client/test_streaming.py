"""Streams of events: what they mean, and how they go on after a lost connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpx2
import pytest

from tests.unit.client import samples
from tests.unit.client.samples import PROBLEM_ID
from tests.unit.client.service import Chunks, Service, answer, events
from trim_client import DecisionMade, Ended, NotFound, NotTheService, StepAccepted, Unreachable, WaitTimedOut
from trim_client.attempts import Patience, Retries
from trim_client.following import Following

LOST = httpx2.ReadError("reset")
DECISION, STEP, END = samples.decision(), samples.step(), samples.problem("succeeded")


def stream(client: Any, **arguments: Any) -> Any:
    return client.problems.stream(PROBLEM_ID, **arguments)


def kinds(found: Iterable[object]) -> list[str]:
    return [type(each).__name__ for each in found]


def test_events_have_types_and_the_stream_ends_with_the_problem(service: Service) -> None:
    service.answers(events(("decision", "1.0", DECISION), ("step", "1.1", STEP), ("end", "end", END)))
    decided, accepted, ended = service.call(stream)
    assert isinstance(decided, DecisionMade)
    assert (decided.decision.reason, decided.id) == ("score_at_least_threshold", "1.0")
    assert isinstance(accepted, StepAccepted)
    assert (accepted.step.author, accepted.step.score) == ("small", 0.9)
    assert isinstance(ended, Ended)
    assert ended.problem.answer == "42"
    [request] = service.requests
    assert request.url.path == f"/api/v1/problems/{PROBLEM_ID}/events"
    assert request.headers["accept"] == "text/event-stream"
    assert "last-event-id" not in request.headers


@pytest.mark.parametrize("ending", [[LOST], []], ids=["broken", "closed"])
def test_a_stream_goes_on_after_the_last_event(service: Service, ending: list[Exception]) -> None:
    service.answers(
        events(("decision", "1.0", DECISION), *ending),
        httpx2.ConnectError("refused"),
        answer(samples.refusal(503, "unavailable"), 503),
        events(*ending),
        events(("step", "1.1", STEP), *ending),
        events(("end", "end", END)),
    )
    assert kinds(service.call(stream)) == ["DecisionMade", "StepAccepted", "Ended"]
    after = [request.headers.get("last-event-id") for request in service.requests]
    assert after == [None, "1.0", "1.0", "1.0", "1.0", "1.1"]


def test_a_stream_begins_after_an_event_that_the_caller_knows(service: Service) -> None:
    service.answers(events(("end", "end", END)))
    service.call(lambda client: stream(client, after="7.5"))
    assert service.requests[0].headers["last-event-id"] == "7.5"
    service.answers(httpx2.Response(204))
    assert service.call(lambda client: stream(client, after="end")) == []


def test_kinds_of_events_that_this_version_does_not_know_are_left_out(service: Service) -> None:
    service.answers(events(("rumour", "1.0", {"a": 1}), LOST), events(("end", "end", END)))
    assert kinds(service.call(stream)) == ["Ended"]
    assert service.requests[1].headers["last-event-id"] == "1.0"


def test_a_problem_that_is_not_found_has_no_stream(service: Service) -> None:
    service.answers(answer(samples.refusal(404, "not_found", "No problem or batch has this id."), 404))
    with pytest.raises(NotFound, match="No problem or batch has this id"):
        service.call(stream)


def test_what_is_no_stream_of_events_is_not_the_service(service: Service) -> None:
    service.answers(answer("<html>A page</html>"))
    with pytest.raises(NotTheService, match="does not answer with a stream of events"):
        service.call(stream)
    service.answers(events(("step", "0.1", {"other": "fields"})))
    with pytest.raises(NotTheService, match="an event 'step' that is not this API's"):
        service.call(stream)


def test_a_service_that_never_answered_is_soon_abandoned(service: Service) -> None:
    service.answers(*[httpx2.ConnectError("refused")] * 3)
    with pytest.raises(Unreachable):
        service.call(stream, max_retries=2)


def test_a_stream_that_is_left_closes_its_connection() -> None:
    from trim_client import Client

    closed: list[bool] = []

    class Watched(Chunks):
        def close(self) -> None:
            closed.append(True)

    head = {"content-type": "text/event-stream"}
    body = [b"event: step\nid: 0.1\ndata: %s\n\n" % httpx2.Response(200, json=STEP).content] * 3
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=head, stream=Watched(body)))
    with Client("http://trim.example.com", transport=transport) as client:
        for event in client.problems.stream(PROBLEM_ID):
            assert isinstance(event, StepAccepted)
            break
        assert closed == [True]


def test_a_stream_ends_at_its_time_limit() -> None:
    now = [0.0]
    patience = Patience(Retries(max_retries=2, draw=lambda: 0.0), timeout_s=60, clock=lambda: now[0])
    following = Following(PROBLEM_ID, after=None, patience=patience, address="here")
    assert following.silence_s == 10
    assert following.hear(httpx2.ServerSentEvent("other", "", "1.0")) is None
    assert following.pause_s(LOST) == 0.5
    now[0] = 57
    assert following.silence_s == 3
    now[0] = 60
    with pytest.raises(WaitTimedOut, match="has not ended within the time limit"):
        following.pause_s(LOST)
    with pytest.raises(WaitTimedOut):
        following.hear(httpx2.ServerSentEvent("other", "", "2.0"))
