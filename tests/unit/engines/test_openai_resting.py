"""The openai engine with a server that asks for a rest, closes connections, or refuses parameters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from email.utils import formatdate
from typing import Any

import pytest
import structlog

from shared.cancellation import Cancellation
from shared.engines.openai import server
from shared.engines.openai.endpoint import Endpoint
from shared.engines.openai.errors import BodyRefused, IncompleteAnswer, ServerBusy, ServerUnavailable
from shared.engines.openai.generator import OpenAIGenerator
from shared.engines.openai.server import KEEP_ALIVE_S, Server
from shared.engines.port import GeneratedStep, GenerationRequest, InputTooLong, Meter
from shared.errors import Fault
from shared.parameters import Parameters
from tests.unit.engines.fake_server import (
    FakeServer,
    Reply,
    answer,
    chunks_of,
    events,
    hangs_up,
    make_request,
    server_at,
    step,
)


@contextmanager
def engine_at(url: str, **parameters: Any) -> Iterator[OpenAIGenerator]:
    endpoint = Endpoint(
        url=url, url_setting="TRIM_SMALL_URL", model="tiny", model_setting="TRIM_SMALL_MODEL",
        style_setting="TRIM_PROMPT_STYLE", parameters=Parameters(**parameters),
    )  # fmt: skip
    engine = OpenAIGenerator(Server(endpoint, max_requests=8), style="completions", template="{question}")
    with closing(engine):
        yield engine


def write(engine: OpenAIGenerator, request: GenerationRequest | None = None) -> list[GeneratedStep]:
    return list(engine.stream(request or make_request(), Cancellation(), Meter()))


# --- rests ----------------------------------------------------------------------------------------------------------


def test_other_calls_wait_as_long_as_the_server_demands(fake: FakeServer) -> None:
    fake.replies(answer(429, retry_after="2"), step("One"))
    with engine_at(fake.url) as engine, ThreadPoolExecutor(8) as pool:
        first = pool.submit(write, engine)
        assert fake.arrived.acquire(timeout=30)
        while not engine._served.server._pacing.is_busy:
            time.sleep(0.01)
        others = [pool.submit(write, engine) for _ in range(7)]
        assert [call.result()[0].text for call in (first, *others)] == ["One"] * 8
    assert len(fake.requests) == 9
    refused, *later = sorted(request.at for request in fake.requests)
    assert all(at - refused >= 2 for at in later)


def test_a_rest_until_a_date_is_kept(fake: FakeServer) -> None:
    date = int(time.time()) + 2  # whole seconds, as the header has
    fake.replies(answer(429, retry_after=formatdate(date, usegmt=True)), step("One"))
    with engine_at(fake.url) as engine:
        write(engine)
    assert len(fake.requests) == 2
    assert time.time() >= date


def test_a_server_that_fails_may_ask_for_a_rest_as_well(fake: FakeServer) -> None:
    fake.replies(answer(503, retry_after="1"), step("One"))
    with engine_at(fake.url) as engine:
        write(engine)
    assert fake.requests[1].at - fake.requests[0].at >= 1


def test_a_call_whose_deadline_is_before_the_end_of_the_rest_ends_at_once(fake: FakeServer) -> None:
    fake.replies(answer(429, retry_after="3600"))
    with engine_at(fake.url) as engine:
        for _ in range(3):
            with pytest.raises(ServerBusy) as caught:
                write(engine)
            assert caught.value.fault is Fault.WORKER
    assert len(fake.requests) == 1


def test_a_busy_server_gets_few_requests_from_many_calls(fake: FakeServer) -> None:
    fake.replies(*[answer(429)] * 3, step("One"))
    with engine_at(fake.url) as engine, ThreadPoolExecutor(8) as pool:
        first = pool.submit(write, engine)
        assert fake.arrived.acquire(timeout=30)
        while not engine._served.server._pacing.is_busy:
            time.sleep(0.01)
        calls = [pool.submit(write, engine) for _ in range(7)]
        assert all(call.result() for call in (first, *calls))
    assert len(fake.requests) == 3 + 8


def test_a_busy_server_that_reports_it_inside_an_answer_gets_the_request_once_more(fake: FakeServer) -> None:
    fake.replies(answer(200, {"error": {"message": "Overloaded", "code": 429}}), step("One"))
    with engine_at(fake.url) as engine:
        assert write(engine)[0].text == "One"


def test_what_a_server_has_begun_to_write_is_not_requested_twice(fake: FakeServer) -> None:
    fake.replies(answer(200, events(chunks_of("Hm")[0], {"error": {"code": 429}})), step("One"))
    with engine_at(fake.url) as engine, pytest.raises(IncompleteAnswer):
        write(engine)
    assert len(fake.requests) == 1


# --- connections ----------------------------------------------------------------------------------------------------


def test_an_idle_connection_is_closed_before_servers_do() -> None:
    assert KEEP_ALIVE_S < 5


def test_a_connection_that_the_server_closed_while_it_was_idle_fails_no_call(fake: FakeServer) -> None:
    fake.replies(step("One"), hangs_up, step("Two"))
    with engine_at(fake.url) as engine:
        assert [each.text for each in write(engine, make_request(max_steps=2))] == ["One", "Two"]
    assert len(fake.requests) == 3


def test_a_new_connection_that_is_closed_without_an_answer_is_a_failure(fake: FakeServer) -> None:
    fake.replies(step("One"), hangs_up, hangs_up, step("Two"))
    with engine_at(fake.url) as engine, pytest.raises(IncompleteAnswer):
        write(engine, make_request(max_steps=2))
    assert len(fake.requests) == 3


# --- reasons --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "error", "sentence"),
    [
        (answer(408, b"upstream request timeout"), ServerUnavailable, "status 408 .upstream request timeout."),
        (answer(502, b"<html><title>502 Bad</title></html>"), ServerUnavailable, "status 502 .502 Bad."),
        (answer(500, {"detail": "CUDA error"}), ServerUnavailable, "status 500 .CUDA error."),
        (answer(500, {"error": {"message": "the request exceeds the available context size"}}), InputTooLong, "tiny"),
        (answer(200, {"error_type": "oom", "error_message": "No memory"}), IncompleteAnswer, "No memory"),
        (answer(200, {"detail": "the prompt exceeds the context window"}), InputTooLong, "tiny"),
        (answer(200, events({"error": "context_length_exceeded"})), InputTooLong, "tiny"),
        (answer(422, {"detail": "bad body"}), BodyRefused, "status 422 .bad body.*TRIM_SMALL_PARAMETERS"),
    ],
)  # fmt: skip
def test_the_reason_of_a_failure_is_shown(
    fake: FakeServer, reply: Reply, error: type[Exception], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_ATTEMPTS", 1)
    fake.replies(reply)
    with engine_at(fake.url) as engine, pytest.raises(error, match=sentence):
        write(engine)


def test_a_proxy_that_timed_out_gets_the_request_once_more(fake: FakeServer) -> None:
    fake.replies(answer(408), step("One"))
    with engine_at(fake.url) as engine:
        assert write(engine)[0].text == "One"


# --- parameters -----------------------------------------------------------------------------------------------------


def test_parameters_are_renamed_dropped_and_fixed(fake: FakeServer) -> None:
    fake.replies(step("One"))
    changes = {"rename": {"max_tokens": "max_completion_tokens"}, "drop": ["top_k", "seed"],
               "fix": {"temperature": 1, "stream_options": {"continuous_usage_stats": False}}}  # fmt: skip
    with engine_at(fake.url, **changes) as engine:
        write(engine)
    body = fake.requests[0].body
    assert not {"max_tokens", "top_k", "seed"} & body.keys()
    assert (body["max_completion_tokens"], body["temperature"]) == (100, 1)
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": False}


def refuses(message: str, **more: Any) -> Reply:
    return answer(400, {"error": {"message": message, **more}})


def test_what_a_refusal_names_is_left_out_and_never_sent_again(fake: FakeServer) -> None:
    fake.replies(
        refuses("Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."),
        refuses("Unrecognized request argument supplied: top_k"),
        refuses("Extra inputs are not permitted", param="stream_options.continuous_usage_stats"),
        step("One"),
    )
    with structlog.testing.capture_logs() as logs, engine_at(fake.url) as engine:
        assert [each.text for each in write(engine, make_request(max_steps=2))] == ["One", "One"]
    assert len(fake.requests) == 5
    for request in fake.requests[3:]:
        assert request.body["max_completion_tokens"] == 100
        assert not {"max_tokens", "top_k"} & request.body.keys()
        assert request.body["stream_options"] == {"include_usage": True}
    assert [log["parameters"] for log in logs if log["event"] == "parameters_refused"] == [
        ["max_tokens"], ["top_k"], ["stream_options.continuous_usage_stats"]
    ]  # fmt: skip


def test_a_refusal_that_names_the_same_parameter_for_ever_ends(fake: FakeServer) -> None:
    fake.replies(refuses("Unrecognized request argument supplied: top_k"))
    with engine_at(fake.url) as engine, pytest.raises(BodyRefused):
        write(engine)
    assert len(fake.requests) == 2


def test_a_request_is_never_sent_without_what_makes_it_what_it_is(fake: FakeServer) -> None:
    fake.replies(refuses("Unrecognized request argument supplied: continue_final_message"))
    engine = OpenAIGenerator(server_at(fake.url), style="chat", template="{question}")
    with closing(engine), pytest.raises(BodyRefused):
        write(engine, make_request(["One"]))
    assert len(fake.requests) == 1
