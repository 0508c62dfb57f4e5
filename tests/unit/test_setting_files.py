"""Settings from files, such as mounted secrets: read like variables, refused with one sentence without the content."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.setting_files import MAX_FILE_BYTES, UnusableSettingFile
from shared.settings import Settings
from stack.roles import Roles

URL = "postgresql://me:hunter2@127.0.0.1/trim"


def write(folder: Path, content: bytes) -> Path:
    path = folder / "value"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [URL, f"{URL}\n", f"{URL}\r\n", f"\N{ZERO WIDTH NO-BREAK SPACE}{URL}"])
def test_a_secret_is_read_from_its_file_without_the_last_line_break(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIM_DATABASE_URL_FILE", str(write(tmp_path, content.encode())))
    assert Settings().require_database_url() == URL


def test_only_one_line_break_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIM_PROMPT_FILE", str(write(tmp_path, b"Solve {question}\n\n\n")))
    assert Settings().prompt == "Solve {question}\n\n"


@pytest.mark.parametrize(("name", "content", "value"), [("window", b"7\n", 7), ("vllm_args", b'{"a": 1}', {"a": 1})])
def test_values_of_every_type_come_from_files(
    name: str, content: bytes, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"TRIM_{name.upper()}_FILE", str(write(tmp_path, content)))
    assert getattr(Settings(), name) == value


def test_a_value_from_a_file_is_checked_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIM_WINDOW_FILE", str(write(tmp_path, b"0\n")))
    with pytest.raises(ValidationError, match="window"):
        Settings()


def test_an_argument_precedes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIM_WINDOW_FILE", str(write(tmp_path, b"7")))
    assert Settings(window=8).window == 8


def test_a_setting_whose_own_name_ends_in_file_is_not_a_path_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithFile(Settings):
        key_file: str = ""

    monkeypatch.setenv("TRIM_KEY_FILE", "here")
    assert WithFile().key_file == "here"
    monkeypatch.delenv("TRIM_KEY_FILE")
    monkeypatch.setenv("TRIM_KEY_FILE_FILE", str(write(tmp_path, b"there")))
    assert WithFile().key_file == "there"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"hunter2 \xff", "is not UTF-8 text"),
        (b"hunter2" * MAX_FILE_BYTES, f"holds more than {MAX_FILE_BYTES} bytes"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_an_unusable_file_is_refused_with_variable_and_path_but_never_its_content(
    content: bytes | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "value" if content is None else write(tmp_path, content)
    monkeypatch.setenv("TRIM_DATABASE_URL_FILE", str(path))
    with pytest.raises(UnusableSettingFile, match=rf"^TRIM_DATABASE_URL_FILE names {path}, which {reason}") as refused:
        Settings()
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_the_stack_replaces_the_files_of_the_settings_that_it_gives_to_roles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIM_BROKER_URL_FILE", "/secret")
    monkeypatch.setenv("TRIM_NODE_NAME_FILE", "/name")
    monkeypatch.setenv("TRIM_PROMPT_FILE", "/prompt")
    inherited = Roles({"TRIM_BROKER_URL": "pgmq://"}, tmp_path)._environment
    assert "TRIM_PROMPT_FILE" in inherited
    assert {"TRIM_BROKER_URL_FILE", "TRIM_NODE_NAME_FILE"}.isdisjoint(inherited)


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"TRIM_DATABASE_URL_FILE": "/"}, "TRIM_DATABASE_URL_FILE names /, which cannot be read: Is a directory."),
        (
            {"TRIM_DATABASE_URL_FILE": ""},
            "TRIM_DATABASE_URL_FILE is empty; set it to the path of a file, or remove it.",
        ),
        (
            {"TRIM_DATABASE_URL": "x", "TRIM_DATABASE_URL_FILE": "/secret"},
            "TRIM_DATABASE_URL and TRIM_DATABASE_URL_FILE are both set; remove one of them.",
        ),
        (
            {"TRIM_DATABSE_URL_FILE": "/secret"},
            "TRIM_DATABSE_URL_FILE is not a setting; did you mean TRIM_DATABASE_URL_FILE?",
        ),
    ],
)
def test_a_process_whose_setting_file_is_wrong_exits_with_one_sentence(
    environment: dict[str, str], sentence: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "services.api"],
        env={**environment, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (2, f"api: {sentence}\n")
