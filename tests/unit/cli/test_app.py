"""The trim command as a shell sees it: what goes to which stream, and the exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

from cli.entry import main
from stack.client import Api

TRIM = Path(sys.executable).parent / "trim"


def trim(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TRIM, *arguments], capture_output=True, text=True, check=False)


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
