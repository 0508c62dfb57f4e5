"""The trim command as a shell sees it: what goes to which stream, and the exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

from cli.entry import main
from stack.client import Api

TRIM = Path(sys.executable).parent / "trim"


def trim(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TRIM, *arguments], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_a_service_that_cannot_be_reached_is_one_sentence_and_exit_code_3() -> None:
    ended = trim("policies", "list", "--server", "http://127.0.0.1:1")
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr == (
        "trim: No service answers at http://127.0.0.1:1 (ConnectError); start one with `make serve`, or name its"
        " address with --server.\n"
    )


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://host", "http://"])
def test_an_address_that_is_none_is_wrong_usage(address: str) -> None:
    ended = trim("policies", "list", "--server", address)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert address in ended.stderr.replace("\n│ ", "")


def test_a_misspelt_variable_for_the_server_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIM_SERVR", "http://127.0.0.1:1")
    ended = trim("policies", "list")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "trim: TRIM_SERVR is not a setting; did you mean TRIM_SERVER?\n"


def test_characters_that_the_terminal_lacks_are_escaped() -> None:
    ended = trim("evaluate", "--help", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Usage: trim evaluate" in ended.stdout


def test_json_is_valid_in_every_encoding() -> None:
    program = "from cli.output import print_json; print_json(['é \N{ABACUS}'])"
    for encoding in ("ascii", "latin-1", "utf-8"):
        printed = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, check=True,
        ).stdout  # fmt: skip
        assert json.loads(printed.decode(encoding)) == ["é \N{ABACUS}"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run([TRIM, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    sentence = "Standard output could not be written to its end; free space, or send it elsewhere."
    assert (ended.returncode, ended.stderr) == (1, f"trim: {sentence} ([Errno 28] No space left on device)\n")


def test_the_entry_point_loads_no_command() -> None:
    loaded = "import cli.entry, sys; print(*(name for name in ('typer', 'numpy', 'cli.app') if name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout == "\n"


class Interrupting(ModuleType):
    def __getattr__(self, name: str) -> NoReturn:
        raise KeyboardInterrupt


@pytest.mark.parametrize("is_loaded", [False, True])
def test_ctrl_c_is_one_sentence_while_commands_load_and_while_they_run(
    is_loaded: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    if is_loaded:
        monkeypatch.setattr(Api, "get", interrupt)
    else:
        monkeypatch.setitem(sys.modules, "cli.app", Interrupting("cli.app"))
    monkeypatch.setattr(sys, "argv", ["trim", "policies", "list"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, *capsys.readouterr()) == (130, "", "trim: Stopped.\n")
