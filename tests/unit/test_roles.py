"""What the stack gives to each role that it starts."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest

from stack.roles import Roles

PRINTS_PORT = ["-c", "import os; print(os.environ.get('TRIM_METRICS_PORT'))"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"TRIM_METRICS_PORT": "9464"}, ["9464", "9465", "9466"]),
        ({"TRIM_METRICS_PORT": "0"}, ["0", "0", "0"]),
        ({}, ["None", "None", "None"]),
    ],
)
def test_each_role_gets_a_metrics_port_of_the_ones_after_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: list[str]
) -> None:
    monkeypatch.delenv("TRIM_METRICS_PORT", raising=False)
    names = ["api", "orchestrator", "small"]
    with Roles(given, tmp_path, roles=dict.fromkeys(names, PRINTS_PORT)) as roles:
        for name in names:
            assert roles._children[name].process.wait(30) == 0
    assert [(tmp_path / f"{name}.log").read_text().strip() for name in names] == expected


IGNORES_SIGTERM = ["-c", "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(99)"]


@pytest.mark.parametrize(
    ("end", "sentences"), [(None, []), (KeyboardInterrupt, ["Stopping; press Ctrl-C", "Waiting for small to finish"])]
)
def test_only_a_stop_that_was_requested_tells_what_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: type[BaseException] | None, sentences: list[str]
) -> None:
    monkeypatch.setattr("stack.roles.TELL_AFTER_S", 0.0)
    monkeypatch.setattr("stack.roles.STOP_TIMEOUT_S", 0.0)
    told: list[str] = []
    with suppress(KeyboardInterrupt), Roles({}, tmp_path, roles={"small": IGNORES_SIGTERM}, tell=told.append):
        while not (tmp_path / "small.log").read_text():
            time.sleep(0.01)
        if end is not None:
            raise end
    assert len(told) == len(sentences)
    assert all(map(str.startswith, told, sentences))
