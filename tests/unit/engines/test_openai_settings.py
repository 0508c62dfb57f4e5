"""The settings of the openai engine."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import closing
from typing import Any

import pytest
from pydantic import ValidationError

from shared.cancellation import Cancellation
from shared.domain.roles import Author
from shared.engines.factory import make_generator, make_scorer
from shared.engines.port import Meter
from shared.parameters import Parameters
from shared.settings import MissingSetting, Settings, UnusableSetting
from tests.unit.engines.fake_server import QUESTION, FakeServer, make_request, step

PATIENCE_S = 30


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
    assert fake.requests[0].body["prompt"] == f"Q: {QUESTION}\nA:", "the model writes the space"
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
    ("given", "sentence"),
    [
        ({"engine": "embedded", "small_thinking": "off"}, "TRIM_SMALL_THINKING needs a chat template"),
        ({"engine": "scripted", "small_thinking": "steps"}, "TRIM_SMALL_THINKING needs a chat template"),
        ({"engine": "openai", "small_thinking": "off"}, "TRIM_PROMPT_STYLE to chat, or remove it"),
        ({"engine": "vllm", "small_thinking": "steps"}, "TRIM_PROMPT_STYLE to chat, or remove it"),
        (
            {"engine": "openai", "prompt_style": "chat-next-step", "small_thinking": "steps"},
            "TRIM_SMALL_THINKING=steps needs TRIM_PROMPT_STYLE=chat",
        ),
    ],
)
def test_a_thinking_mode_without_a_template_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UnusableSetting, match=sentence):
        make_generator(Settings(**given), Author.SMALL)


@pytest.mark.parametrize(("style", "thinking"), [("chat", "steps"), ("chat", "off"), ("chat-next-step", "off")])
def test_a_thinking_mode_is_that_of_its_role(fake: FakeServer, style: Any, thinking: Any) -> None:
    fake.replies(step("One", chat=True))
    settings = Settings(
        engine="openai", large_url=fake.url, large_model="l", prompt_style=style, large_thinking=thinking,
        small_thinking="steps", large_parameters=Parameters(fix={"chat_template_kwargs": {"thinking": "low"}}),
    )  # fmt: skip
    with closing(make_generator(settings, Author.LARGE)) as large:
        list(large.stream(make_request(), Cancellation(), Meter()))
    asked = fake.requests[0].body["chat_template_kwargs"]
    assert asked == {"enable_thinking": thinking == "steps", "thinking": "low"}


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
        ("TRIM_SMALL_THINKING", "on", "Input should be 'off' or 'steps'"),
        ("TRIM_SMALL_PARAMETERS", "{", "not a JSON object"),
        ("TRIM_SMALL_PARAMETERS", "[]", "valid dictionary"),
        ("TRIM_LARGE_PARAMETERS", '{"renam": {}}', "its parts are rename, drop, fix, and no others"),
        ("TRIM_PRM_PARAMETERS", '{"small": {"drop": ["top_k"]}}', "its parts are rename, drop, fix, and no others"),
        ("TRIM_LARGE_PARAMETERS", '{"drop": ["messages", "top_k"]}', "messages cannot be changed"),
        ("TRIM_LARGE_PARAMETERS", '{"rename": {"seed": "prompt"}}', "prompt cannot be changed"),
        (
            "TRIM_LARGE_PARAMETERS",
            '{"drop": ["seed"], "fix": {"seed": 1}}',
            "seed can only be renamed",
        ),
        ("TRIM_LARGE_PARAMETERS", '{"rename": {"seed": "x", "stop": "x"}}', "two parameters cannot get the same name"),
        ("TRIM_PRM_PARAMETERS", '{"fix": {"a b": 1}}', "should match pattern"),
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
