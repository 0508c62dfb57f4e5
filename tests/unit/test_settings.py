"""Settings: documented, immutable, refused with a sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.settings import MissingSetting, Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


def test_every_setting_is_documented_with_its_own_sentence() -> None:
    page = PAGE.read_text()
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert f"| `TRIM_{name.upper()}` |" in page
        assert field.description in page


def test_the_page_documents_nothing_that_is_not_a_setting() -> None:
    rows = [line.split("`")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `TRIM_")]
    assert sorted(rows) == sorted(f"TRIM_{name.upper()}" for name in Settings.model_fields)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().window = 1  # type: ignore[misc]


def test_a_missing_url_says_how_to_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIM_DATABASE_URL", raising=False)
    with pytest.raises(MissingSetting, match="TRIM_DATABASE_URL is not set; set it to something like"):
        Settings().require_database_url()


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("TRIM_WINDOW", "0", "setting TRIM_WINDOW: Input should be greater than or equal to 1."),
        ("TRIM_VLLM_ARGS", "{max_model_len: 4096}", "setting TRIM_VLLM_ARGS: it is no JSON object."),
        ("TRIM_VLLM_ARGS", "[4096]", "setting TRIM_VLLM_ARGS: Input should be a valid dictionary."),
        ("TRIM_DATABASE_URL", "", "TRIM_DATABASE_URL is not set"),
        ("TRIM_DATABASE_URL", "mysql://x", "TRIM_DATABASE_URL names no Postgres database"),
    ],
)
def test_a_process_with_wrong_settings_ends_with_one_sentence(variable: str, value: str, sentence: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "services.orchestrator"],
        env={variable: value, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert sentence in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
