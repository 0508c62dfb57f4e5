"""`trim evaluate` and `trim compare` against a service that solves at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.app import app
from stack.client import Api, Unreachable
from tests.unit.evaluation.runs.fake_service import FakeService

PRICES = {"small": {"input": 0, "output": 1e-6}, "large": {"input": 0, "output": 2e-6}, "prm": {"input": 0}}
POLICY = "threshold:threshold=0.5"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> FakeService:
    fake = FakeService()
    for name in ("get", "items", "submit", "batch"):
        monkeypatch.setattr(Api, name, lambda _, *args, name=name, **named: getattr(fake, name)(*args, **named))
    return fake


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    problems = [{"question": f"What is {number}", "answer": "7", "id": number} for number in range(4)]
    (tmp_path / "problems.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in problems))
    (tmp_path / "prices.json").write_text(json.dumps(PRICES))
    return tmp_path


def trim(*arguments: str, exit_code: int = 0) -> str:
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == exit_code, ended.output
    return ended.stdout


def evaluate(*more: str, exit_code: int = 0) -> str:
    return trim("evaluate", "problems.jsonl", "--policy", POLICY, "--seeds", "1", "--into", "run", *more,
                exit_code=exit_code)  # fmt: skip


@pytest.mark.usefixtures("folder")
def test_a_run_that_has_ended_is_shown_again_without_the_service(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = evaluate("--json")
    calls = service.calls

    def is_away(*_: Any, **__: Any) -> None:
        raise Unreachable

    for name in ("get", "items", "submit", "batch"):
        monkeypatch.setattr(Api, name, is_away)
    assert evaluate("--json") == shown
    assert service.calls == calls


@pytest.mark.usefixtures("folder")
def test_a_policy_without_solutions_has_no_curve_and_ends_the_command_with_an_exit_code(service: FakeService) -> None:
    service.endings["threshold"] = {
        "status": "failed", "failure": {"code": "no_output", "detail": ""}, "answer": None, "verdict": None,
    }  # fmt: skip
    summary = json.loads(evaluate("--json", exit_code=1))
    assert (summary["without_solutions"], summary["curves"]) == ([POLICY], [])
    compared = trim("compare", "small-only", POLICY, "--in", "run", "-n", "1")
    assert "second: failed (no_output)" in compared
    assert "first: small: So" in compared


@pytest.mark.usefixtures("folder", "service")
def test_a_difference_of_small_costs_is_written_out() -> None:
    evaluate("--prices", "prices.json")
    compared = trim("compare", "large-only", "small-only", "--in", "run", "--prices", "prices.json")
    cost = next(line for line in compared.splitlines() if line.startswith("cost"))
    assert cost.split() == ["cost", "1e-05", "(1e-05", "to", "1e-05)"]
