"""The openai engine when its server is busy, broken, silent, unreachable, or not as configured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import pytest

from shared.cancellation import Cancellation, Cancelled
from shared.engines.openai.errors import (
    AccessDenied,
    BodyRefused,
    IncompleteAnswer,
    ModelNotServed,
    NoRoomForStep,
    ServerBusy,
    ServerUnavailable,
    UnreadableAnswer,
)
from shared.engines.openai.generator import OpenAIGenerator
from shared.engines.port import (
    EngineStopped,
    GeneratedStep,
    GenerationRequest,
    InputTooLong,
    Meter,
    StepTimeout,
)
from shared.errors import Fault, TrimError
from shared.proxies import UnusableProxy
from tests.unit.engines.fake_server import (
    KEY,
    QUESTION,
    FakeServer,
    Reply,
    answer,
    breaks_off,
    events,
    falls_silent,
    make_request,
    server_at,
    stays_silent,
    step,
    unused_url,
)

PATIENCE_S = 30


@contextmanager
def engine_at(url: str, **changes: Any) -> Iterator[OpenAIGenerator]:
    engine = OpenAIGenerator(server_at(url, **changes), style="completions", template="Problem: {question}\n\n")
    with closing(engine):
        yield engine


def write(
    engine: OpenAIGenerator, request: GenerationRequest | None = None, cancellation: Cancellation | None = None
) -> list[GeneratedStep]:
    return list(engine.stream(request or make_request(), cancellation or Cancellation(), Meter()))


def test_a_server_on_this_machine_is_reached_without_the_proxy_of_the_environment(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    fake.replies(step("One"))
    with engine_at(fake.url) as engine:
        assert write(engine)[0].text == "One"


def test_a_proxy_that_needs_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with (
        pytest.raises(UnusableProxy, match=r"^A proxy of the environment cannot be used"),
        engine_at("http://192.0.2.1"),
    ):
        pass


# --- retries --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [answer(429), answer(500), answer(503, b"<html>")])
def test_a_transient_error_is_retried(fake: FakeServer, trouble: Reply) -> None:
    fake.replies(trouble, trouble, step("One"))
    with engine_at(fake.url) as engine:
        assert write(engine)[0].text == "One"
    assert len(fake.requests) == 3


def test_a_retry_waits_as_long_as_the_server_demands(fake: FakeServer) -> None:
    fake.replies(answer(429, retry_after="1"), step("One"))
    with engine_at(fake.url) as engine:
        write(engine)
    assert fake.requests[1].at - fake.requests[0].at >= 1


@pytest.mark.parametrize("when", ["61", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_no_retry_waits_past_the_deadline(fake: FakeServer, when: str) -> None:
    fake.replies(answer(429, retry_after=when))
    with engine_at(fake.url) as engine, pytest.raises(ServerBusy, match="lower TRIM_CONCURRENCY"):
        write(engine)
    assert len(fake.requests) == 1


@pytest.mark.parametrize("when", ["soon", "Fri, 31 Dec 1999 23:59:59 GMT", "0"])
def test_unusable_retry_dates_are_ignored(fake: FakeServer, when: str) -> None:
    fake.replies(answer(429, retry_after=when), step("One"))
    with engine_at(fake.url) as engine:
        assert len(write(engine)) == 1


def test_a_server_that_keeps_failing_is_abandoned(fake: FakeServer) -> None:
    fake.replies(answer(502))
    with engine_at(fake.url) as engine, pytest.raises(ServerUnavailable, match="TRIM_SMALL_URL failed with status 502"):
        write(engine)
    assert len(fake.requests) == 5


def test_an_unreachable_server_is_abandoned() -> None:
    with engine_at(unused_url()) as engine, pytest.raises(ServerUnavailable, match="TRIM_SMALL_URL cannot be reached"):
        write(engine)


# --- no retries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [breaks_off, answer(200, events({"error": 1}))])
def test_a_request_that_a_server_accepted_is_not_retried(fake: FakeServer, trouble: Reply) -> None:
    fake.replies(trouble, step("One"))
    with engine_at(fake.url) as engine, pytest.raises(IncompleteAnswer):
        write(engine)
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    ("status", "message", "error", "sentence"),
    [
        (401, "no", AccessDenied, "TRIM_OPENAI_API_KEY"),
        (403, "no", AccessDenied, "TRIM_OPENAI_API_KEY"),
        (404, "no", ModelNotServed, "tiny.*check TRIM_SMALL_MODEL, TRIM_SMALL_URL and TRIM_PROMPT_STYLE"),
        (400, "no", BodyRefused, "status 400.*TRIM_PROMPT_STYLE"),
        (422, "no", BodyRefused, "status 422"),
        (307, "no", BodyRefused, "check TRIM_SMALL_URL"),
        (400, "This model's maximum context length is 8 tokens.", InputTooLong, "max_steps"),
        (400, "The decoder prompt (length 9) is longer than the maximum model length of 8.", InputTooLong, "tiny"),
        (400, "The input (9 tokens) is longer than the model's context length (8).", InputTooLong, "tiny"),
        (400, "the request exceeds the available context size", InputTooLong, "tiny"),
        (400, "The context length is 8, not 9: 5 of input and 4 for the completion.", NoRoomForStep, "max_step_tokens"),
        (400, "max_tokens=9 is greater than max_model_len=8. Request fewer output tokens.", NoRoomForStep, "tiny"),
        (400, "'max_tokens' is too large: 9. The context length is 8.", NoRoomForStep, "tiny"),
        (400, "The context length is 8, but 9 input tokens exceed it without any output tokens.", InputTooLong, "tiny"),
    ],
)
def test_a_refusal_names_what_to_change(
    fake: FakeServer, status: int, message: str, error: type[TrimError], sentence: str
) -> None:
    fake.replies(answer(status, {"error": {"message": f"{message} {KEY} {QUESTION}"}}))
    with engine_at(fake.url) as engine, pytest.raises(error, match=sentence) as caught:
        write(engine)
    is_of_the_server = error in (AccessDenied, ModelNotServed, BodyRefused)
    assert caught.value.fault is (Fault.WORKER if is_of_the_server else Fault.INPUT)
    assert len(fake.requests) == 1
    assert KEY not in repr(caught.value)
    assert QUESTION not in repr(caught.value)


def test_a_code_for_a_short_context_is_enough(fake: FakeServer) -> None:
    fake.replies(answer(400, {"error": {"code": "context_length_exceeded", "message": "Too much."}}))
    with engine_at(fake.url) as engine, pytest.raises(InputTooLong):
        write(engine)


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices": [{"te',
        b"<html>hello</html>",
        b'data: {"choices": [{"te\n\n',
        b"data: []\n\n",
    ],
)
def test_an_unreadable_response_is_not_retried(fake: FakeServer, body: bytes) -> None:
    fake.replies(answer(200, body))
    with engine_at(fake.url) as engine, pytest.raises(UnreadableAnswer, match="check TRIM_SMALL_URL") as caught:
        write(engine)
    assert caught.value.retryable
    assert caught.value.__cause__ is None
    assert len(fake.requests) == 1


def test_nothing_private_is_logged(fake: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    fake.replies(answer(500), step("A secret step"))
    with engine_at(fake.url) as engine:
        write(engine)
    assert not [private for private in (KEY, QUESTION, "secret") if private in caplog.text]


# --- silence --------------------------------------------------------------------------------------------------------

silences = pytest.mark.parametrize("silence", [stays_silent, falls_silent])


@silences
def test_a_silent_server_times_out(fake: FakeServer, silence: Reply) -> None:
    fake.replies(silence)
    with engine_at(fake.url) as engine:
        with pytest.raises(StepTimeout, match="TRIM_SMALL_URL"):
            write(engine, make_request(step_timeout_s=1))
        assert fake.left.acquire(timeout=PATIENCE_S)


def ends_with(error: type[Exception], call: Callable[[], object], after: Callable[[], None]) -> None:
    """Check that a call in another thread raises an error after something is done."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(call)
        after()
        assert isinstance(running.exception(timeout=PATIENCE_S), error)


@silences
def test_a_cancelled_call_leaves_a_silent_server(fake: FakeServer, silence: Reply) -> None:
    fake.replies(silence)
    cancellation = Cancellation()

    def cancel() -> None:
        assert fake.arrived.acquire(timeout=PATIENCE_S)
        cancellation.cancel()

    with engine_at(fake.url) as engine:
        ends_with(Cancelled, lambda: write(engine, make_request(step_timeout_s=600), cancellation), cancel)
        assert fake.left.acquire(timeout=PATIENCE_S)


@silences
def test_closing_ends_running_and_later_calls(fake: FakeServer, silence: Reply) -> None:
    fake.replies(silence)
    with engine_at(fake.url) as engine:

        def close() -> None:
            assert fake.arrived.acquire(timeout=PATIENCE_S)
            engine.close()

        ends_with(EngineStopped, lambda: write(engine, make_request(step_timeout_s=600)), close)
        assert fake.left.acquire(timeout=PATIENCE_S)
        with pytest.raises(EngineStopped):
            write(engine)


def test_a_cancelled_call_sends_no_request(fake: FakeServer) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    with engine_at(fake.url) as engine, pytest.raises(Cancelled):
        write(engine, cancellation=cancellation)
    assert not fake.requests


def test_a_call_that_waits_for_a_connection_times_out(fake: FakeServer) -> None:
    fake.replies(stays_silent, step("One"))
    cancellation = Cancellation()
    with engine_at(fake.url, max_requests=1) as engine, ThreadPoolExecutor(1) as pool:
        first = pool.submit(write, engine, make_request(step_timeout_s=600), cancellation)
        assert fake.arrived.acquire(timeout=PATIENCE_S)
        with pytest.raises(StepTimeout):
            write(engine, make_request(step_timeout_s=1))
        assert len(fake.requests) == 1
        cancellation.cancel()
        assert isinstance(first.exception(timeout=PATIENCE_S), Cancelled)
        assert write(engine)[0].text == "One"


def test_many_calls_share_an_engine(fake: FakeServer) -> None:
    fake.replies(step("One"))
    with engine_at(fake.url, max_requests=4) as engine, ThreadPoolExecutor(16) as pool:
        assert len(list(pool.map(lambda _: write(engine), range(64)))) == 64
