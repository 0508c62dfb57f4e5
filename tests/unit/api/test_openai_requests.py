"""Requests for chat completions: which problem each asks for, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from services.api.openai.errors import OpenAIError
from services.api.openai.questions import check_chat
from services.api.openai.requests import ChatRequest
from services.api.submitting import Checked
from shared.domain.options import Limits
from shared.settings import Settings

SETTINGS = Settings(max_question_chars=500)
USER = {"role": "user", "content": "What is 6 times 7?"}


def check(*messages: dict[str, Any], **fields: Any) -> Checked:
    body = {"model": "trim", "messages": list(messages) or [USER], **fields}
    return check_chat(ChatRequest.model_validate(body), SETTINGS)


def test_the_question_is_the_message_of_the_user_as_it_is() -> None:
    content = "  What is\n\n6 times 7? "
    assert check({"role": "user", "content": content}).submission.question == content


def test_messages_of_the_system_precede_the_question() -> None:
    messages = [{"role": "system", "content": " Use metres. "}, {"role": "developer", "content": ""}, USER]
    assert check(*messages).submission.question == "Use metres.\n\nWhat is 6 times 7?"


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "What is 6"}, {"type": "text", "text": " times 7?"}]
    assert check({"role": "user", "content": parts, "name": "Mia"}).submission.question == "What is 6 times 7?"


HARMLESS: dict[str, Any] = {
    "n": 1, "stream": False, "stream_options": None, "user": "mia", "store": True, "metadata": {"run": "1"},
    "service_tier": "auto", "logprobs": False, "top_logprobs": 0, "presence_penalty": 0, "frequency_penalty": 0.0,
    "logit_bias": {}, "response_format": {"type": "text"}, "tools": [], "tool_choice": "none", "functions": [],
    "function_call": "auto", "parallel_tool_calls": True, "modalities": ["text"], "safety_identifier": "x",
    "prompt_cache_key": "x", "prompt_cache_retention": "24h", "stop": None, "seed": None, "temperature": None,
    "audio": None, "prediction": None, "reasoning_effort": None, "verbosity": None, "web_search_options": None,
    "moderation": None, "prompt_cache_options": None, "max_tokens": None, "trim": None,
}  # fmt: skip


def test_parameters_that_ask_for_what_there_is_anyway_change_nothing() -> None:
    assert check(**HARMLESS).meaning == check().meaning
    assert set(ChatRequest.model_fields) - set(HARMLESS) == {"model", "messages", "max_completion_tokens", "top_p"}


def test_sampling_and_limits_come_from_either_form() -> None:
    options = check(
        temperature=0, top_p=0.5, seed=7, max_tokens=100, trim={"sampling": {"top_k": 5}, "limits": {"max_steps": 3}}
    ).submission.options
    sampling = options.sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.top_k) == (0, 0.5, 7, 5)
    assert options.limits == Limits(max_steps=3, max_step_tokens=100, max_tokens=100)
    assert check(max_completion_tokens=9000).submission.options.limits == Limits(max_tokens=9000)
    assert check(max_tokens=5, max_completion_tokens=5).submission.options.limits.max_tokens == 5


def test_the_choices_of_this_service_are_those_of_a_problem() -> None:
    trim = {
        "policy": {"name": "random", "parameters": {"p": 0.5}},
        "lookahead": "unlimited",
        "shadows": [{"name": "small-only"}],
        "reference": 42,
        "when_large_away": "accept",
        "deadline_s": 60,
    }
    submission = check(trim=trim).submission
    [arm] = submission.arms
    assert (arm.chosen.policy.name, arm.chosen.policy.parameters["p"]) == ("random", 0.5)
    assert (submission.options.lookahead, submission.reference, len(submission.shadows)) == (None, "42", 1)
    assert submission.options.deadline_at is not None
    split = [{"name": "a", "policy": {}}, {"name": "b", "policy": {"name": "large-only"}}]
    assert [arm.name for arm in check(trim={"split": split}).submission.arms] == ["a", "b"]


def test_wrappers_apply_to_the_policy_that_the_model_names() -> None:
    [arm] = check(model="trim-threshold-0.2", trim={"wrappers": {"budget": 9}}).submission.arms
    assert (arm.chosen.policy.parameters["threshold"], arm.chosen.policy.wrappers.budget) == (0.2, 9)


ASSISTANT = {"role": "assistant", "content": None, "refusal": None, "tool_calls": []}


@pytest.mark.parametrize(
    ("messages", "param", "code"),
    [
        ([USER, ASSISTANT, USER], "messages[0].role", "unsupported_value"),
        ([ASSISTANT, USER], "messages[0].role", "unsupported_value"),
        ([{"role": "system", "content": "x"}, ASSISTANT, USER], "messages[1].role", "unsupported_value"),
        ([{"role": "system", "content": "x"}], "messages[0].role", "unsupported_value"),
        ([USER, {"role": "system", "content": "x"}], "messages[0].role", "unsupported_value"),
        ([{"role": "tool", "content": "x", "tool_call_id": "1"}, USER], "messages[0].role", "unsupported_value"),
        ([{"role": "user", "content": None}], "messages[0].content", "invalid_value"),
        (
            [{"role": "system", "content": "x"}, {"role": "user", "content": " "}],
            "messages[1].content",
            "invalid_value",
        ),
        ([{**USER, "weight": 1}], "messages[0].weight", "unknown_parameter"),
        ([{"role": "user", "content": "x" * 501}], "messages", "invalid_value"),
    ],
)
def test_messages_that_are_no_question_are_refused(messages: list[dict[str, Any]], param: str, code: str) -> None:
    with pytest.raises(OpenAIError) as refused:
        check(*messages)
    assert (refused.value.param, refused.value.code, refused.value.status) == (param, code, 400)
    assert str(refused.value).endswith(".")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "trim-small", "trim": {"policy": {"name": "random"}}}, "trim.policy"),
        (
            {"model": "trim-small", "trim": {"split": [{"name": "a", "policy": {}}, {"name": "b", "policy": {}}]}},
            "trim.split",
        ),
        ({"trim": {"policy": {"name": "random"}, "wrappers": {"budget": 1}}}, "trim.wrappers"),
        ({"temperature": 0, "trim": {"sampling": {"temperature": 1}}}, "trim.sampling.temperature"),
        ({"max_tokens": 5, "trim": {"limits": {"max_tokens": 6}}}, "trim.limits.max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"trim": {"policy": {"name": "dice"}}}, "trim.policy"),
        ({"trim": {"shadows": [{"name": "dice"}]}}, "trim.shadows[0]"),
        ({"model": "trim-small", "trim": {"when_prm_away": "escalate"}}, "trim.when_prm_away"),
        ({"model": "trim-cascade", "trim": {"wrappers": {"epsilon": 0.5}}}, "trim.wrappers"),
    ],
)
def test_choices_that_contradict_each_other_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(OpenAIError) as refused:
        check(**fields)
    assert refused.value.param == param


UNSUPPORTED: dict[str, Any] = {
    "n": 2, "logprobs": True, "top_logprobs": 3, "presence_penalty": 0.5, "frequency_penalty": -1,
    "logit_bias": {"50256": -100}, "response_format": {"type": "json_object"}, "tools": [{"type": "function"}],
    "tool_choice": "required", "functions": [{"name": "f"}], "function_call": {"name": "f"},
    "modalities": ["text", "audio"], "audio": {"voice": "x"}, "prediction": {"type": "content", "content": "x"},
    "reasoning_effort": "high", "verbosity": "low", "web_search_options": {}, "moderation": {"model": "x"},
    "prompt_cache_options": {}, "service_tier": "flex",
}  # fmt: skip


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_no_model_here_can_do_is_refused(name: str) -> None:
    with pytest.raises(ValidationError) as refused:
        check(**{name: UNSUPPORTED[name]})
    [error] = refused.value.errors()
    assert error["loc"] == (name,)
    assert error["type"] in ("unsupported", "literal_error")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://host.example/x.png"}},
        {"type": "input_audio", "input_audio": {}},
        {"type": "text"},
        {"type": "text", "text": "x", "cache_control": {}},
        {"text": "x"},
        "x",
        None,
    ],
)
def test_parts_that_are_no_text_are_refused(part: object) -> None:
    with pytest.raises(ValidationError) as refused:
        check({"role": "user", "content": [{"type": "text", "text": "What?"}, part]})
    [error] = refused.value.errors()
    assert error["loc"] == ("messages", 0, "content")
    assert error["type"] in ("unsupported", "unknown_field")
