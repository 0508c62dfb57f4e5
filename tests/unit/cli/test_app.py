"""The trim command as a shell sees it: what goes to which stream, and the exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
