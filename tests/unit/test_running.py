"""What `serve` tells, and the stack's own client of the API that it starts."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shared.settings import Settings
from stack import running
from stack.client import Api

READINESS: list[dict[str, Any] | None] = [
    {"down": ["small", "prm"]}, None, {"down": ["prm"]}, {"down": [], "note": "This service runs the bundled models."},
]  # fmt: skip


def test_serve_tells_what_is_not_up_and_what_that_means_until_everything_is(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(READINESS)

    def mend() -> list[str]:
        if len(told) == 5:
            raise KeyboardInterrupt
        return []

    told: list[str] = []
    api = SimpleNamespace(address="http://host", readiness=lambda: next(answers))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        running.serve(cast("Any", api), cast("Any", SimpleNamespace(mend=mend)), told.append)
    refused = "not up yet; problems that need them wait, fitted policies may be refused"
    assert told[1:4] == [f"Waiting:  small, prm {refused}", f"Waiting:  prm {refused}", "Ready:    every role is up"]
    assert re.fullmatch(r'Try:      \S*trim solve "Amy has 46 beads\. .*\?" --server http://host', told[4])


def test_the_command_to_try_is_one_that_the_shell_in_this_folder_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for python, trim in ((tmp_path / ".venv/bin/python", ".venv/bin/trim"), (Path("/a b/python"), "'/a b/trim'")):
        monkeypatch.setattr(sys, "executable", str(python))
        command = running.first_command("http://127.0.0.1:8080", is_demonstration=False)
        assert command == f'{trim} solve "your question"'


@contextmanager
def no_roles(*_: object, **__: object) -> Iterator[SimpleNamespace]:
    yield SimpleNamespace(check=lambda: None)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("::1", "http://[::1]:8080"),
        ("::", "http://[::1]:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("trim.example.com", "http://trim.example.com:8080"),
    ],
)
def test_the_stack_reaches_its_api_at_the_address_that_it_prints_without_a_proxy(
    host: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")  # A client that reads it raises.
    monkeypatch.setattr(running, "Roles", no_roles)
    monkeypatch.setattr(Api, "wait_until_ready", lambda *_, **__: None)
    with running.running_roles(Settings(api_host=host), {"TRIM_API_PORT": "8080"}) as (api, _):
        assert api.address == address
