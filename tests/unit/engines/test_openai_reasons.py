"""What servers say about refusals and failures: tables of wordings, most of them from real servers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.engines.openai.reasons import read_failure, shown, texts_of

SENT = ("max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "stream_options",
        "stream_options.include_usage", "stream_options.continuous_usage_stats", "chat_template_kwargs")  # fmt: skip


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
        "Your input exceeds the context window of this model. Please adjust your input and try again.",
        "The decoder prompt (length 9) is longer than the maximum model length of 8.",
        "The input (9 tokens) is longer than the model's context length (8).",
        "Input length (9 tokens) exceeds the maximum allowed length (8 tokens).",
        "the request exceeds the available context size, try increasing it",
        "exceed_context_size_error",
        "input is too large to process. increase the physical batch size",
        "context shift is disabled and the context overflowed: context limit reached",
        "Trying to keep the first 5000 tokens when context the overflows. The model is loaded with context length 4096",
        "prompt is too long: 200001 tokens > 200000 maximum",
        "`inputs` must have less than 1024 tokens. Given: 2048",
        "The input token count (1048600) exceeds the maximum number of tokens allowed (1048575).",
        "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
        "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5000",
        "Please reduce the length of the messages or completion. Current length is 9000 while limit is 8192.",
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
        "Invalid request: Your request exceeded model token limit: 8192",
        "Range of input length should be [1, 30720]",
        "Prompt exceeds max length",
        "invalid params, context window exceeds limit",
        "Input is too long for requested model.",
        "string_above_max_length",
        "413 Request Entity Too Large",
        "max_model_len",
        "The context length is 8, but 9 input tokens exceed it without any output tokens.",
    ],
)
def test_a_context_overflow_in_any_wording(message: str) -> None:
    for body in (message, {"error": {"message": message}}, {"detail": message}, {"error": message}):
        failed = read_failure(body if isinstance(body, str) else json.dumps(body))
        assert failed.is_too_long
        assert not failed.has_no_room_for_step
        assert not failed.refused(SENT)


@pytest.mark.parametrize(
    "message",
    [
        "The context length is 8, not 9: 5 of input and 4 for the completion.",
        "max_tokens=9 is greater than max_model_len=8. Request fewer output tokens.",
        "'max_tokens' is too large: 9. The context length is 8.",
        "'max_tokens' or 'max_completion_tokens' is too large: 9.",
        "`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 1000 `inputs` tokens and 1100 `max_new_tokens`",
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
        "max_tokens must be less than or equal to 8192",
        "You requested a total of 9 tokens: 5 tokens from the input messages and 4 tokens for the completion.",
    ],
)
def test_a_step_that_does_not_fit_in_any_wording(message: str) -> None:
    failed = read_failure(json.dumps({"error": {"message": message}}))
    assert failed.has_no_room_for_step
    assert not failed.refused(SENT)


@pytest.mark.parametrize(
    "message",
    [
        "No.", "Rate limit reached for requests", "Internal server error", "temperature must be at most 2",
        "The model does not exist", "Invalid value for temperature: 3", "You exceeded your current quota",
        "<html><head><title>502 Bad Gateway</title></head></html>", "upstream request timeout", "",
    ],
)  # fmt: skip
def test_other_reasons_are_neither(message: str) -> None:
    failed = read_failure(message)
    assert not failed.is_too_long
    assert not failed.has_no_room_for_step
    assert not failed.refused(SENT)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"error": {"message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                    "'max_completion_tokens' instead.", "param": "max_tokens", "code": "unsupported_parameter"}},
         ["max_tokens"]),
        ({"error": {"message": "Unsupported value: 'temperature' does not support 0.7 with this model. Only the "
                    "default (1) value is supported.", "param": "temperature"}}, ["temperature"]),
        ({"error": {"message": "Unrecognized request argument supplied: top_k"}}, ["top_k"]),
        ({"error": {"message": "Unrecognized request arguments supplied: chat_template_kwargs, top_k"}},
         ["top_k", "chat_template_kwargs"]),
        ({"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted",
                      "input": 7}]}, ["seed"]),
        ({"detail": [{"loc": ["body", "stream_options", "continuous_usage_stats"],
                      "msg": "Extra inputs are not permitted"}]}, ["stream_options.continuous_usage_stats"]),
        ({"error": {"message": "property 'stop' is unsupported"}}, ["stop"]),
        ({"message": "stop is not supported by this model"}, ["stop"]),
        ({"error": "`top_p` cannot be specified together with `temperature`"}, ["temperature", "top_p"]),
        ({"error": {"message": "Unknown name \"seed\": Cannot find field."}}, ["seed"]),
        ({"error": {"message": "We had to stop: seed banks are not supported."}}, []),
    ],
)  # fmt: skip
def test_parameters_that_a_refusal_names(body: Any, names: list[str]) -> None:
    assert read_failure(json.dumps(body)).refused(SENT) == names


@pytest.mark.parametrize(
    ("body", "status", "is_busy"),
    [
        ({"error": {"message": "Too many requests", "code": 429}}, 429, True),
        ({"error": {"message": "Overloaded", "type": "overloaded_error"}}, None, True),
        ({"error": {"message": "no capacity", "code": "503"}}, 503, True),
        ({"error": {"message": "rate_limit_exceeded", "code": 400}}, 400, False),
        ({"error": {"message": "Out of memory", "code": 500}}, 500, False),
        ({"error": 1}, None, False),
    ],
)
def test_a_busy_server_is_not_a_broken_one(body: Any, status: int | None, is_busy: bool) -> None:
    failed = read_failure(body)
    assert (failed.status, failed.is_busy) == (status, is_busy)


# --- what is shown --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        ("No memory left.", "No memory left"),
        ({"error": {"type": "oom_error", "message": "No memory left."}}, "No memory left. oom error"),
        ("<html>\n<head><title>502 Bad Gateway</title></head><body><h1>x</h1></body></html>", "502 Bad Gateway"),
        ("<html><body><h1>Service &amp; co</h1></body></html>", "Service & co"),
        ("<p>Try</p><p>later</p>", "Try later"),
        ("cannot parse 'What is one and one?' here", "cannot parse '… ' here"),
        ("cannot parse 'What is one\\nand one", "cannot parse '… "),
        ("key sk-abcdef0123456789 is wrong", "… is wrong"),
        ("token 0123456789abcdef0123456789abcdef unknown", "… unknown"),
        ("a " * 500, ("a " * 80).strip()),
        ("", ""),
    ],
)
def test_a_reason_is_shown_without_what_is_private(said: Any, seen: str) -> None:
    request = ["Problem: What is one and one?\n\nFirst, we add.\n\n"]
    assert shown(read_failure(said), request=request).startswith(seen.strip())
    assert "one and" not in shown(read_failure(said), request=request)


def test_all_texts_of_a_request_are_private() -> None:
    body = {"messages": [{"role": "user", "content": "Why?"}], "prompt": "How?", "input": ["Who?"], "max_tokens": 3}
    assert list(texts_of(body)) == ["user", "Why?", "How?", "Who?"]
