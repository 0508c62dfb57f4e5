"""Reading what servers stream: a table of bodies, and the completion that each one is."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest
import structlog

from shared.domain.drafts import Finish
from shared.engines.openai.completions import Completion, read_completion
from shared.engines.openai.errors import AnswerWithheld, IncompleteAnswer
from shared.engines.openai.reasons import ReportedFailure

DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 40, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 32}}
COUNTED = b'data: {"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 5}}\n\n'


def read(body: bytes, *, blocks: int = 1) -> Completion:
    """Read a body that arrives in blocks of bytes."""

    async def stream() -> Any:
        size = -(-len(body) // blocks)
        for begin in range(0, len(body), size):
            yield body[begin : begin + size]

    return asyncio.run(read_completion(httpx2.Response(200, content=stream()), streamed=lambda _: None))


def event(choice: dict[str, Any] | None = None, **more: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [choice] if choice else [], **more}).encode() + b"\n\n"


def stopping(finish: str | None, **choice: Any) -> bytes:
    return event({"text": "One"}) + event({"text": ".", "finish_reason": finish, **choice}) + COUNTED + DONE


# --- bodies of every form -------------------------------------------------------------------------------------------

PLAIN = stopping("stop")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(PLAIN, id="plain"),
        pytest.param(PLAIN.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(PLAIN.replace(b"\n", b"\r"), id="CR"),
        pytest.param(PLAIN.replace(b"data: ", b"data:"), id="no space after the colon"),
        pytest.param(PLAIN.replace(b"\n\n", b"\n"), id="no blank lines"),
        pytest.param(b": hello\n\n" + PLAIN.replace(b"\n\n", b"\n\n: keep-alive\n\n"), id="comments"),
        pytest.param(PLAIN.replace(b"data: ", b"event: message\nid: 7\nretry: 3\ndata: "), id="other fields"),
        pytest.param(PLAIN.replace(b"data: ", b"data: null\n\ndata: "), id="null"),
        pytest.param(PLAIN.replace(b"data: ", b"data:\n\ndata: "), id="empty data"),
        pytest.param(b'data: {"choices": null}\n\n' + PLAIN, id="choices are null"),
        pytest.param(b'data: {"choices": []}\n\ndata: {}\n\n' + PLAIN, id="no choices"),
        pytest.param(PLAIN.removesuffix(DONE), id="no [DONE]"),
        pytest.param(PLAIN.removesuffix(DONE).rstrip(), id="last line without a line end"),
        pytest.param(PLAIN.replace(b'{"text": "One"}', b'{"text": "One", "finish_reason": ""}'), id="finish is empty"),
        pytest.param(PLAIN.replace(b'{"text": "One"}', b'{"text": "One", "finish_reason": null}'), id="finish is null"),
        pytest.param(PLAIN.replace(b'"text": ', b'"text": null, "delta": {"role": "assistant", "content": ', 2)
                     .replace(b'"One"', b'"One"}').replace(b'"."', b'"."}'), id="chat"),
        pytest.param(event({"delta": None, "text": "One"}) + stopping("stop").replace(b'"One"', b'""'),
                     id="delta is null"),
        pytest.param(json.dumps({"choices": [{"text": "One.", "finish_reason": "stop"}], "usage": {
            "prompt_tokens": 40, "completion_tokens": 5}}, indent=1).encode(), id="one JSON body"),
        pytest.param(json.dumps({"choices": [{"message": {"content": "One."}, "finish_reason": "stop"}], "usage": {
            "prompt_tokens": 40, "completion_tokens": 5}}).encode(), id="one message"),
    ],
)  # fmt: skip
def test_a_body_of_every_form_is_read(body: bytes) -> None:
    for blocks in (1, 2, 7, len(body)):
        read_one = read(body, blocks=blocks)
        assert (read_one.text, read_one.finish, read_one.tokens) == ("One.", Finish.SEPARATOR, 5)
        assert (read_one.prompt_tokens, read_one.estimated_tokens, read_one.names_stop) == (40, 0, False)


@pytest.mark.parametrize(
    "halves",
    [
        (rb'"\ud83d"', rb'"\ude00"'),
        (b'"\xf0\x9f"', b'"\x98\x80"'),
        (b'"\xf0"', b'"\x9f\x98\x80"'),
    ],
)
def test_a_character_that_is_split_over_two_deltas_is_whole(halves: tuple[bytes, bytes]) -> None:
    pieces = [b'data: {"choices": [{"text": ' + half + b"}]}\n\n" for half in (b'"So "', *halves, b'" \xc3\xa9"')]
    assert read(b"".join(pieces) + DONE).text == "So 😀 é"


def test_half_a_character_without_the_other_is_replaced() -> None:
    assert read(rb'data: {"choices": [{"text": "a\ud83d b"}]}' + b"\n\n" + DONE).text == "a\ufffd b"


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices": [{"te', b"<html>hello</html>", b'data: {"choices": [{"te\n\n', b"data: []\n\n", b"", DONE,
        b'data: {"choices": []}\n\n' + DONE, b"null", b'"One"',
    ],
)  # fmt: skip
def test_a_body_that_is_no_completion_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the server names it
        read(body)


def test_a_stream_that_ends_in_the_middle_is_incomplete() -> None:
    with pytest.raises(IncompleteAnswer, match="broke off"):
        read(event({"text": "One"}))


def test_a_server_that_says_that_it_is_done_may_leave_out_the_reason() -> None:
    assert read(event({"text": "One"}) + COUNTED + DONE).finish is Finish.SEPARATOR


# --- why it stopped -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "choice", "finish", "names_stop"),
    [
        ("stop", {}, Finish.SEPARATOR, False),
        ("stop", {"stop_reason": "\n\n"}, Finish.SEPARATOR, True),
        ("stop", {"matched_stop": None}, Finish.ENDED, True),
        ("STOP", {"stop_reason": 7}, Finish.ENDED, True),
        ("eos", {}, Finish.ENDED, True),
        ("eos_token", {}, Finish.ENDED, True),
        ("end_turn", {}, Finish.ENDED, True),
        ("stop_sequence", {}, Finish.SEPARATOR, True),
        ("tool_calls", {}, Finish.SEPARATOR, False),
        ("function_call", {}, Finish.SEPARATOR, False),
        ("repetition", {}, Finish.SEPARATOR, False),
        ("repetition", {"stop_reason": "repetition_detected"}, Finish.ENDED, True),
        ("bored", {}, Finish.SEPARATOR, False),
        ("length", {}, Finish.LENGTH, True),
        ("max_tokens", {}, Finish.LENGTH, True),
        ("MAX_TOKENS", {}, Finish.LENGTH, True),
        ("model_length", {}, Finish.LENGTH, True),
    ],
)
def test_the_word_for_why_it_stopped(word: str, choice: dict[str, Any], finish: Finish, names_stop: bool) -> None:
    read_one = read(stopping(word, **choice))
    assert (read_one.finish, read_one.names_stop) == (finish, names_stop)


def test_an_unknown_word_is_logged_once() -> None:
    with structlog.testing.capture_logs() as logs:
        read(stopping("out_of_ink"))
        read(stopping("out_of_ink"))
    assert [log["finish_reason"] for log in logs if log["event"] == "finish_reason_unknown"] == ["out_of_ink"]


@pytest.mark.parametrize("word", ["abort", "error", "cancelled"])
def test_a_request_that_the_server_broke_off_is_incomplete(word: str) -> None:
    with pytest.raises(IncompleteAnswer):
        read(stopping(word))


@pytest.mark.parametrize("word", ["content_filter", "SAFETY"])
def test_a_filter_withholds_the_answer(word: str) -> None:
    with pytest.raises(AnswerWithheld):
        read(stopping(word))


# --- what it used ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "usage",
    [
        None, {}, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, {"completion_tokens": None}, "much",
        {"completion_tokens": -3, "prompt_tokens": "40"}, {"completion_tokens": True}, [], {"completion_tokens": 1e999},
    ],
)  # fmt: skip
def test_tokens_that_are_not_counted_are_estimated_apart(usage: Any) -> None:
    body = event({"text": "One and one"}) + event({"text": " is two.", "finish_reason": "stop"}, usage=usage) + DONE
    read_one = read(body)
    assert (read_one.text, read_one.tokens, read_one.estimated_tokens) == ("One and one is two.", 0, 5)
    assert (read_one.prompt_tokens, read_one.cached_tokens) == (0, 0)


def test_an_estimate_counts_at_least_one_token_for_each_chunk() -> None:
    assert read(b"".join(event({"text": digit}) for digit in "1234567") + DONE).estimated_tokens == 7


@pytest.mark.parametrize(("cached", "counts"), [(50, 40), (40, 40), (-1, 0), (None, 0), ("many", 0)])
def test_no_more_tokens_are_cached_than_the_prompt_has(cached: Any, counts: int) -> None:
    usage = {**USAGE, "prompt_tokens_details": {"cached_tokens": cached}}
    read_one = read(event({"text": "One", "finish_reason": "stop"}, usage=usage) + DONE)
    assert (read_one.prompt_tokens, read_one.cached_tokens) == (40, counts)


# --- what it thought ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "thinking",
    [
        {"reasoning_content": "Hm."},
        {"reasoning": "Hm."},
        {"reasoning": "Hm.", "reasoning_content": "Hm."},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]},
    ],
)
def test_reasoning_is_read_apart_from_the_text(thinking: dict[str, Any]) -> None:
    body = event({"delta": thinking}) + event({"delta": {"content": [{"type": "text", "text": "One"}]}}) + DONE
    read_one = read(body)
    assert (read_one.reasoning, read_one.text, read_one.estimated_tokens) == ("Hm.", "One", 2)


# --- failures inside an answer --------------------------------------------------------------------------------------


@pytest.fixture(params=["stream", "body", "event"])
def as_body(request: pytest.FixtureRequest) -> Any:
    def write(value: Any) -> bytes:
        content = json.dumps(value).encode()
        return {"body": content, "stream": b"data: " + content + b"\n\n" + DONE,
                "event": b"event: error\ndata: " + content + b"\n\n"}[request.param]  # fmt: skip

    return write


@pytest.mark.parametrize(
    "failure",
    [
        {"error": {"message": "No memory.", "code": 500}},
        {"error": "No memory."},
        {"error_type": "oom", "error_message": "No memory."},
        {"detail": "No memory."},
        {"detail": [{"loc": ["body"], "msg": "No memory."}]},
        {"code": 50001, "message": "No memory."},
        {"object": "error", "message": "No memory.", "type": "oom"},
        {"choices": None, "error_message": "No memory."},
        {"error": {"message": '{"error": {"message": "No memory."}}'}},
    ],
)
def test_a_failure_of_every_shape_is_found(as_body: Any, failure: Any) -> None:
    with pytest.raises(ReportedFailure) as caught:
        read(as_body(failure))
    assert "No memory" in caught.value.failed.reason


def test_an_answer_with_fields_of_success_is_no_failure() -> None:
    body = event({"text": "One", "finish_reason": "stop"}, code=0, message="ok", error=None, usage=USAGE) + DONE
    assert read(body).text == "One"
