"""`trim prm drift` against a service of stored rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.app import app
from cli.errors import EXIT_SHIFTED
from evaluation.score_drift import ReferenceScores
from evaluation.stored_scores import NoScores
from stack.client import Api

DRIFT = ("prm", "drift", "--reference")


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    path = tmp_path / "[b]reference.json"
    scores = [[0.8, 0.9, 0.95]] * 50
    ReferenceScores.of(scores, prm="a", created_at=datetime.now(UTC), source="batch 1").write(path)
    return path


def store(monkeypatch: pytest.MonkeyPatch, *problems: tuple[str, float | None]) -> None:
    """Have the service store problems, each with the PRM and the score of its one draft."""

    def items(_: Api, path: str, *, count: int | None = None) -> Iterator[dict[str, Any]]:
        del count
        if path == "/v1/problems":
            for number in range(len(problems)):
                yield {"id": number, "status": "succeeded", "verdict": None}
            return
        *_, number, what = path.split("/")
        prm, score = problems[int(number)]
        yield {"observation": {"score": score}, "scoring": {"model": prm}} if what == "decisions" else {"score": score}

    monkeypatch.setattr(Api, "items", items)


def test_a_shift_has_an_exit_code_that_no_failure_has(monkeypatch: pytest.MonkeyPatch, reference: Path) -> None:
    store(monkeypatch, *[("a", 0.1)] * 50)
    ended = CliRunner().invoke(app, [*DRIFT, str(reference), "--json"])
    assert (ended.exit_code, json.loads(ended.stdout)["drift"]) == (EXIT_SHIFTED, "shifted")
    assert EXIT_SHIFTED not in (0, 1, 2, 3)


def test_a_prm_that_gives_no_usable_score_is_one_sentence(monkeypatch: pytest.MonkeyPatch, reference: Path) -> None:
    store(monkeypatch, ("a", None), ("a", None))
    ended = CliRunner().invoke(app, [*DRIFT, str(reference)])
    assert isinstance(ended.exception, NoScores)
    assert "2 without scores" in str(ended.exception)


def test_problems_without_a_usable_score_are_counted(monkeypatch: pytest.MonkeyPatch, reference: Path) -> None:
    store(monkeypatch, *[("a", 0.9)] * 3, ("a", None))
    ended = CliRunner().invoke(app, [*DRIFT, str(reference), "--json"])
    assert json.loads(ended.stdout)["problems_left_out"] == {"without scores": 1}


def test_drift_compares_the_prm_that_the_reference_names(monkeypatch: pytest.MonkeyPatch, reference: Path) -> None:
    store(monkeypatch, *[("a", 0.9)] * 3, *[("b", 0.1)] * 3)
    ended = CliRunner().invoke(app, [*DRIFT, str(reference), "--json"])
    assert (json.loads(ended.stdout)["prm"], json.loads(ended.stdout)["problems"]) == ("a", 3)
    assert json.loads(ended.stdout)["problems_left_out"] == {"scored by another PRM": 3}


def test_help_has_no_odd_defaults() -> None:
    shown = " ".join(CliRunner().invoke(app, ["prm", "drift", "--help"]).stdout.replace("│", " ").split())
    assert "[[" not in shown
    assert "ReferenceScores" not in shown
    assert "(http" not in shown
    assert "http://127.0.0.1:8080 by default" in shown
