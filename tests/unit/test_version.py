"""The version is stated once, and every program explains itself without a setting or a server."""

from __future__ import annotations

import importlib.metadata
import re
import runpy
import sys
import tomllib
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.app import app
from services.api.app import create_app
from shared.settings import Settings
from shared.store.database import Database
from shared.version import PRODUCT, VERSION
from stack.roles import ROLES

ROOT = Path(__file__).resolve().parents[2]

STATED = {
    "compose.yaml": r"image: trim-[a-z-]+:\$\{VERSION:-(.+)\}",
    "docker/Dockerfile": r"^ARG VERSION=(.+)",
    "deploy/components/release/kustomization.yaml": r"newTag: ([^}]+)\}",
    "client/trim_client/version.py": r'^VERSION = "(.+)"',
    "pyproject.toml": r'"trim-client==([^"]+)"',
}
"""Where files that cannot read the version name it, as patterns."""

PROGRAMS = (*dict.fromkeys(arguments[1] for arguments in ROLES.values()), "migrations", "stack")


def shown(program: str, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a program in this process with one option that ends it; return what it prints."""
    monkeypatch.setattr(sys, "argv", [program, option])
    monkeypatch.delitem(sys.modules, f"{program}.__main__", raising=False)  # Another test may have imported it.
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(program, run_name="__main__", alter_sys=False)
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_help_of_every_program_names_settings_that_exist(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = set(re.findall(r"TRIM_(\w+)", shown(program, "--help", monkeypatch, capsys)))
    assert named
    assert named <= {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_prints_the_version(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(program, "--version", monkeypatch, capsys) == f"{PRODUCT}\n"


def test_trim_prints_the_version_and_keeps_its_description() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"{PRODUCT}\n"
    assert "Use a running TRIM service" in CliRunner().invoke(app, ["--help"]).output


def test_the_description_of_the_api_has_the_version() -> None:
    description = create_app(Settings(), Database("postgresql://127.0.0.1:1/x")).openapi()
    assert description["info"]["version"] == VERSION


@pytest.mark.parametrize("file", STATED)
def test_images_have_the_version_as_their_tag_and_the_client_as_its_own(file: str) -> None:
    assert set(re.findall(STATED[file], (ROOT / file).read_text(), re.MULTILINE)) == {VERSION}


def test_an_image_has_the_metadata_that_an_installation_would_have(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "version.py").write_text((ROOT / "shared" / "version.py").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runpy.run_path(str(ROOT / "docker" / "metadata.py"))["write"](project, tmp_path)
    [found] = importlib.metadata.distributions(path=[str(tmp_path)])
    assert (found.name, found.version) == (project["name"], VERSION)
    assert {entry.group for entry in found.entry_points} == {"vllm.general_plugins"}


def test_the_newest_section_of_the_changelog_is_that_of_the_version() -> None:
    [*sections] = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    version, _, state = sections[0].partition(" - ")
    assert version == VERSION
    assert state == "unreleased" or date.fromisoformat(state)
    assert all(date.fromisoformat(section.partition(" - ")[2]) for section in sections[1:])
