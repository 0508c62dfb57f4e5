"""Settings: documented, immutable, and refused with one sentence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from pydantic import SecretStr, ValidationError

from shared.messages import MAX_PREFIX_BYTES
from shared.setting_names import UnknownSetting, check_setting_names
from shared.settings import MAX_QUESTION_CHARS, OTHER_FIELDS_BYTES, MissingSetting, Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
ROWS = {row[0]: row[1:] for row in re.findall(r"^\| `(TRIM_\w+)` \| (.+?) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)}
"""Default and description of each variable on the page."""

NUMBERS = [name for name, field in Settings.model_fields.items() if field.annotation in (int, float)]
MAY_BE_ZERO = ("api_port", "stop_grace_s", "away_patience_s")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"TRIM_{name.upper()}", raising=False)


def test_the_page_lists_every_setting_in_the_order_of_the_code_and_nothing_else() -> None:
    assert list(ROWS) == [f"TRIM_{name.upper()}" for name in Settings.model_fields]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_page_describes_each_setting_as_the_code_does(name: str) -> None:
    assert ROWS[f"TRIM_{name.upper()}"][1] == Settings.model_fields[name].description


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_page_shows_the_default_of_each_setting(name: str) -> None:
    shown, default = ROWS[f"TRIM_{name.upper()}"][0], Settings.model_fields[name].default
    in_words = {
        "node_name": "host name and process id",
        "api_root_path": "empty",
        "prompt": "`Problem: {question}` and a blank line",
        **dict.fromkeys(("small_model", "large_model", "prm_model"), "the bundled model"),
    }
    assert shown == in_words.get(name, "not set" if default is None else f"`{default}`")


def test_the_description_of_a_choice_names_every_value() -> None:
    for name, field in Settings.model_fields.items():
        choices = [each for each in get_args(field.annotation) if isinstance(each, str)]
        if name != "log_level":
            assert all(f"`{each}`" in (field.description or "") for each in choices), name


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().window = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "many", ""])
def test_a_number_is_positive_and_finite(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"TRIM_{name.upper()}", value)
    if value == "0" and name in MAY_BE_ZERO:
        assert getattr(Settings(), name) == 0
    else:
        with pytest.raises(ValidationError, match=name):
            Settings()


@pytest.mark.parametrize("name", ["node_name", "api_host", "small_model", "large_model", "prm_model"])
def test_a_name_is_not_empty(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"TRIM_{name.upper()}", "")
    with pytest.raises(ValidationError, match=name):
        Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("api_port", "65536"),
        ("concurrency", "1025"),
        ("max_question_chars", str(MAX_QUESTION_CHARS + 1)),
        ("queue_prefix", "Trim"),
        ("queue_prefix", "x" * 33),
        ("engine", "torch"),
        ("log_level", "loud"),
        ("prompt", "Solve this."),
        ("api_root_path", "trim"),
        ("api_root_path", "/trim/"),
        ("api_root_path", "/a b"),
        ("small_url", "localhost:8000"),
        ("small_url", "http://key@localhost:8000/v1"),
        ("small_url", "http://localhost:8000/v1?key=1"),
        ("openai_api_key", "two words"),
    ],
)
def test_a_value_out_of_bounds_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"TRIM_{name.upper()}", value)
    with pytest.raises(ValidationError, match=name):
        Settings()


def test_the_longest_question_leaves_half_of_a_message_for_steps() -> None:
    question = "\N{ABACUS}" * MAX_QUESTION_CHARS
    assert len(question.encode()) == MAX_PREFIX_BYTES // 2


@pytest.mark.parametrize("max_question_chars", [1, 20_000, MAX_QUESTION_CHARS])
def test_the_smallest_body_limit_holds_the_longest_question_however_it_is_escaped(max_question_chars: int) -> None:
    longest = json.dumps({"question": "\N{ABACUS}" * max_question_chars})
    with pytest.raises(ValidationError, match="raise this limit") as refused:
        Settings(max_question_chars=max_question_chars, max_body_bytes=1)
    needed = int(re.findall(r"takes up to (\d+) bytes", str(refused.value))[0])
    assert needed - OTHER_FIELDS_BYTES <= len(longest) < needed
    assert Settings(max_question_chars=max_question_chars, max_body_bytes=needed).max_body_bytes == needed


@pytest.mark.parametrize("max_question_chars", [20_000, MAX_QUESTION_CHARS])
def test_the_default_body_limit_is_enough_for_every_question_limit(max_question_chars: int) -> None:
    assert Settings(max_question_chars=max_question_chars).max_question_chars == max_question_chars


@pytest.mark.parametrize("value", [None, SecretStr("")])
def test_a_missing_url_is_reported_with_an_example(value: SecretStr | None) -> None:
    with pytest.raises(MissingSetting, match="TRIM_DATABASE_URL is not set; set it to something like"):
        Settings(database_url=value).require_database_url()
    with pytest.raises(MissingSetting, match="TRIM_BROKER_URL is not set; set it to something like"):
        Settings(broker_url=value).require_broker_url()


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("TRIM_WINDOW", "0", "setting TRIM_WINDOW: Input should be greater than or equal to 1."),
        ("TRIM_MAX_BODY_BYTES", "1", "setting TRIM_MAX_BODY_BYTES: a request with a question of 20000 characters"),
        ("TRIM_VLLM_ARGS", "{max_model_len: 4096}", "setting TRIM_VLLM_ARGS: not a JSON object."),
        ("TRIM_PRM_PARAMETERS", '{"renam": {}}', "setting TRIM_PRM_PARAMETERS: its parts are rename, drop, fix, and"),
        ("TRIM_PRM_PARAMETERS", '{"drop": 1}', "setting TRIM_PRM_PARAMETERS, in drop: Input should be a valid"),
        ("TRIM_VLLM_ARGS", "[4096]", "setting TRIM_VLLM_ARGS: Input should be a valid dictionary."),
        ("TRIM_DATABASE_URL", "", "TRIM_DATABASE_URL is not set"),
        ("TRIM_DATABASE_URL", "mysql://x", "TRIM_DATABASE_URL names no Postgres database"),
        ("TRIM_DATABSE_URL", "x", "TRIM_DATABSE_URL is not a setting; did you mean TRIM_DATABASE_URL?"),
    ],
)
def test_a_process_with_wrong_settings_exits_with_one_sentence(variable: str, value: str, sentence: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "services.api"],
        env={variable: value, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert sentence in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_an_error_does_not_repeat_a_secret() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "services.api"],
        env={"TRIM_SMALL_URL": "http://me:hunter2@localhost/v1", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "TRIM_SMALL_URL: credentials do not belong in the URL" in ended.stderr
    assert "hunter2" not in ended.stderr


@pytest.mark.parametrize(
    ("variable", "advice"),
    [
        ("TRIM_WINDOWS", "did you mean TRIM_WINDOW?"),
        ("trim_windows", "did you mean TRIM_WINDOW?"),
        ("TRIM_SERVR", "did you mean TRIM_SERVER?"),
        ("TRIM_API_PORT_8080_TCP_ADDR", "did you mean TRIM_API_PORT?"),
        ("TRIM_ZZZ", "remove it; docs/settings.md lists the settings."),
    ],
)
def test_a_variable_that_names_no_setting_is_refused_with_the_nearest_name(
    variable: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "")
    with pytest.raises(UnknownSetting, match=f"^{re.escape(f'{variable} is not a setting; {advice}')}$"):
        Settings()


@pytest.mark.parametrize("variable", ["trim_window", "TRIM_SERVER", "TRIM_TEST_BROKER_URL", "TRIMMED"])
def test_a_setting_in_lower_case_and_the_variables_of_the_client_and_the_tests_are_known(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "7")
    assert Settings().window in (7, Settings.model_fields["window"].default)


def test_every_variable_in_pages_and_manifests_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    root = PAGE.parent.parent
    places = ("Makefile", "*.md", "compose*.yaml", "docs/**/*.md", "deploy/**/*.*", "docker/**/*")
    files = [path for place in places for path in root.glob(place) if path.is_file()]
    named = {name for path in files for name in re.findall(r"\bTRIM_[A-Z0-9_]*[A-Z0-9]\b", path.read_text("utf-8"))}
    for name in named - {"TRIM_X", "TRIM_X_FILE"}:
        monkeypatch.setenv(name, "")
    check_setting_names(Settings)
    assert {"TRIM_DATABASE_URL", "TRIM_DATABASE_URL_FILE", "TRIM_SERVER", "TRIM_TEST_BROKER_URL"} <= named
