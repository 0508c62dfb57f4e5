"""What a shell, a locale, a path or another user may do to our commands."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

import migrations
from release import project
from release.project import ReleaseRefused, tracked_files
from shared.store.compatibility import REVISION

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("bench", "chaos", "cli", "deploy", "docker", "evaluation", "migrations", "recipe", "release", "services",
           "shared", "simulation", "stack", "training")  # fmt: skip


@pytest.mark.parametrize("name", ["100%", "%(here)s", "two: words", "o'clock", 'say "é"', "$HOME #1", "a,b;c"])
def test_migrations_are_found_in_a_folder_of_any_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / name / "migrations"
    shutil.copytree(migrations.HERE, moved, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrations, "HERE", moved)
    monkeypatch.setattr(migrations, "VERSIONS", moved / "versions")
    script = ScriptDirectory.from_config(migrations.config(""))
    assert script.get_current_head() == REVISION
    assert Path(script.versions) == moved / "versions"


def test_a_repository_that_git_does_not_read_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "ROOT", tmp_path)
    with pytest.raises(ReleaseRefused, match=r"^git cannot list the files: fatal: not a git repository"):
        tracked_files()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ReleaseRefused, match=r"^git is not installed"):
        tracked_files()


# make


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the Makefile and nothing to install, whose path needs quoting."""
    made = tmp_path / "it's 100% #1"
    (made / "requirements").mkdir(parents=True)
    (made / "requirements" / "stack.lock").touch()
    (made / "client").mkdir()
    for folder in (made, made / "client"):
        (folder / "pyproject.toml").touch()
    shutil.copy(ROOT / "Makefile", made)
    return made


def make(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", "-C", checkout, *arguments],
        env={**inherited, **environment}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def interpreter(folder: Path, script: str) -> Path:
    """Write a program that stands for an interpreter."""
    made = folder / "python"
    made.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    made.chmod(0o755)
    return made


def test_make_hides_what_the_shell_says_about_python_and_the_targets_of_pip(checkout: Path, tmp_path: Path) -> None:
    shown = interpreter(tmp_path, 'echo "$PYTHONHOME$PYTHONPATH$PIP_TARGET$PIP_PREFIX$PIP_USER" >&2; exit 1')
    polluted = {"PYTHONHOME": "home", "PYTHONPATH": "path", "PIP_TARGET": "target", "PIP_PREFIX": "/", "PIP_USER": "1"}
    ended = make(checkout, "install", f"PYTHON={shown}", MAKEFLAGS="j4", **polluted)
    assert ended.stderr.splitlines()[0] == "0"


def test_an_environment_that_could_not_be_made_is_made_again(checkout: Path, tmp_path: Path) -> None:
    without_pip = interpreter(
        tmp_path, 'test "$2" != venv && exit; mkdir -p "$3/bin"; touch "$3/bin/python"; echo no pip here; exit 1'
    )
    for _ in range(2):
        assert "no pip here" in make(checkout, "install", f"PYTHON={without_pip}").stdout


def test_an_interpreter_that_is_too_old_is_named_before_anything_is_made(checkout: Path, tmp_path: Path) -> None:
    program = f'exec {sys.executable} -c "import sys; sys.version_info = (3, 10); $2"'
    ended = make(checkout, "install", f"PYTHON={interpreter(tmp_path, program)}")
    assert ended.stderr.splitlines()[0] == "Python 3.11 or newer is needed; set PYTHON=/path/to/it"
    assert not (checkout / ".venv").exists()


# Encodings


def unspecified_encodings(path: Path) -> Iterator[str]:
    """Find calls that read or write text in the encoding of the locale."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(attr="read_text" | "write_text"), keywords=keywords):
                if not any(each.arg == "encoding" for each in keywords):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}"


def test_files_are_read_and_written_in_utf_8_whatever_the_locale() -> None:
    modules = [path for folder in SHIPPED for path in (ROOT / folder).rglob("*.py")]
    assert len(modules) > 100
    assert [place for path in modules for place in unspecified_encodings(path)] == []
