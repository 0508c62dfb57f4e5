"""The openai engine when its server is busy, broken, silent, unreachable, or not as configured."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from shared.cancellation import Cancellation, Cancelled
from shared.domain.roles import Author
from shared.engines.factory import make_generator, make_scorer
from shared.engines.openai.breaker import Breaker
from shared.engines.openai.errors import (
    AccessDenied,
    CircuitOpen,
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
    RequestRefused,
    StepTimeout,
)
from shared.errors import TrimError
from shared.settings import MissingSetting, Settings
from tests.unit.engines.fake_server import (
    KEY,
    QUESTION,
    FakeServer,
    Reply,
    answer,
    breaks_off,
    chunks_of,
    events,
    falls_silent,
    hangs_up,
    make_request,
    server_at,
    serving,
    stays_silent,
    step,
    unused_url,
)

PATIENCE_S = 30


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with serving() as server:
        yield server


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


@pytest.mark.parametrize("trouble", [hangs_up, breaks_off, answer(200, events({"error": 1}))])
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
        (400, "no", RequestRefused, "status 400.*TRIM_PROMPT_STYLE"),
        (422, "no", RequestRefused, "status 422"),
        (307, "no", RequestRefused, "check TRIM_SMALL_URL"),
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
    assert not caught.value.retryable
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
        events(*chunks_of("One")[:1]),
        events(*chunks_of("One")[:2]),
        events(*chunks_of("One", finish="tool_calls")),
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


# --- the breaker ----------------------------------------------------------------------------------------------------


def test_a_server_that_fails_is_left_alone(fake: FakeServer) -> None:
    fake.replies(answer(500))
    with engine_at(fake.url, breaker=Breaker(failures=3, rest_s=1000)) as engine:
        for _ in range(2):
            with pytest.raises(CircuitOpen, match="TRIM_SMALL_URL") as caught:
                write(engine)
            assert caught.value.retryable
    assert len(fake.requests) == 3


def test_a_probe_finds_that_the_server_is_back(fake: FakeServer) -> None:
    fake.replies(answer(500), answer(500), step("One"))
    with engine_at(fake.url, breaker=Breaker(failures=2, rest_s=0)) as engine:
        assert write(engine)[0].text == "One"


@pytest.mark.parametrize("reply", [answer(429, retry_after="0"), answer(400, {})])
def test_a_server_that_refuses_is_not_down(fake: FakeServer, reply: Reply) -> None:
    fake.replies(reply)
    with engine_at(fake.url, breaker=Breaker(failures=1, rest_s=1000)) as engine:
        for _ in range(2):
            with pytest.raises((ServerBusy, RequestRefused)):
                write(engine)


def test_a_silent_server_is_down(fake: FakeServer) -> None:
    fake.replies(stays_silent)
    with engine_at(fake.url, breaker=Breaker(failures=1, rest_s=1000)) as engine:
        with pytest.raises(StepTimeout):
            write(engine, make_request(step_timeout_s=1))
        assert fake.left.acquire(timeout=PATIENCE_S)
        with pytest.raises(CircuitOpen):
            write(engine)


def test_one_request_at_a_time_probes() -> None:
    breaker = Breaker(failures=1, rest_s=0)
    assert [breaker.admit(), breaker.admit()] == ["request", "request"]
    breaker.settle("request", is_alive=False)
    assert [breaker.admit(), breaker.admit()] == ["probe", None]
    breaker.settle("request", is_alive=False)  # one that was under way when the breaker opened
    assert breaker.admit() is None
    breaker.settle("probe", is_alive=None)
    assert [breaker.admit(), breaker.admit()] == ["probe", None]
    breaker.settle("probe", is_alive=True)
    assert [breaker.admit(), breaker.admit()] == ["request", "request"]


# --- settings -------------------------------------------------------------------------------------------------------


def test_the_settings_make_engines_of_each_role(fake: FakeServer) -> None:
    fake.replies(step("One"))
    settings = Settings(
        engine="openai", small_url=fake.url + "/", large_url=fake.url, prm_url=fake.url,
        small_model="s", large_model="l", prm_model="p", prompt="Q: {question}\nA: ",
    )  # fmt: skip
    with (
        closing(make_generator(settings, Author.SMALL)) as small,
        closing(make_generator(settings, Author.LARGE)) as large,
        closing(make_scorer(settings)) as prm,
    ):
        assert [small.model_id, large.model_id, prm.model_id] == ["openai/s", "openai/l", "openai/p#bundled"]
        assert len(list(small.stream(make_request(), Cancellation(), Meter()))) == 1
    assert fake.requests[0].path == "/v1/completions"
    assert fake.requests[0].body["prompt"] == f"Q: {QUESTION}\nA: "
    assert "authorization" not in fake.requests[0].headers
    assert not {"s", "l", "p"} & {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"large_model": "l"}, "TRIM_LARGE_URL is not set"),
        ({"large_url": "http://x/v1"}, "TRIM_LARGE_MODEL is not set"),
    ],
)
def test_a_missing_setting_is_named(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MissingSetting, match=sentence):
        make_generator(Settings(engine="openai", **given), Author.LARGE)


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("TRIM_SMALL_URL", "ftp://host/v1", "not a URL like http://127.0.0.1:8000/v1"),
        ("TRIM_SMALL_URL", "http:///v1", "not a URL like http://127.0.0.1:8000/v1"),
        ("TRIM_SMALL_URL", "http://host:secret/v1", "not a URL"),
        ("TRIM_LARGE_URL", "http://me:secret@host/v1", "credentials do not belong in the URL; set TRIM_OPENAI_API_KEY"),
        ("TRIM_OTLP_URL", "http://me:secret@host", "TRIM_OPENAI_API_KEY or OTEL_EXPORTER_OTLP_HEADERS"),
        ("TRIM_OTLP_URL", "http://host:4318/v1/traces/", "/v1/traces does not belong in the URL, because it is added"),
        ("TRIM_PRM_URL", "http://host/v1?key=secret", "query, fragment and white space do not belong in the URL"),
        ("TRIM_OPENAI_API_KEY", "sk-secret\nsecret", "an API key holds only visible ASCII characters"),
        ("TRIM_PROMPT", "Problem:", "the placeholder {question} is missing"),
        ("TRIM_PROMPT_STYLE", "responses", "Input should be 'completions', 'chat' or 'chat-next-step'"),
        ("TRIM_PRM_FORMAT", "llama", "Input should be 'bundled', 'qwen', 'skywork', 'math-shepherd' or 'rlhflow'"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    [error] = caught.value.errors(include_input=False)
    assert f"TRIM_{error['loc'][0]}".upper() == variable
    assert sentence in error["msg"]
    assert "secret" not in error["msg"]


def test_other_engines_need_no_http_client() -> None:
    probe = "import sys, shared.engines.factory, shared.settings; sys.exit('httpx2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False, timeout=PATIENCE_S).returncode == 0
