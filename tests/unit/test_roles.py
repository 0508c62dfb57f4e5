"""What the stack gives to each role that it starts."""

from __future__ import annotations

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
