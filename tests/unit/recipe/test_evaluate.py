"""How the command that measures models ends. Its figures are tested with the service that it starts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.comparison import Comparison, Comparisons
from evaluation.metrics import Baselines
from recipe import evaluate
from recipe.measuring import Scored
from recipe.problems.checker import Label
from recipe.problems.story import Story
from recipe.settings import CURVES
from recipe.tables import Results
from shared.settings import Settings
from stack.state import state_folder
from tests.unit.simulation.conftest import quiet  # noqa: F401 - a fixture


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, and leave signals and logs to the process of the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stack.interrupts.unwind_on_signals", lambda: None)
    monkeypatch.setattr("shared.log.configure", lambda *_, **__: None)


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """Run the command and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    with pytest.raises(SystemExit) as stopped:
        evaluate.main()
    return stopped.value.code


def test_a_service_that_differs_is_reported_in_one_sentence_after_all_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compare(
        settings: Settings, models: Path, stories: Sequence[Story], measured: Mapping[str, Results]
    ) -> Comparisons:
        solved = measured["prm"].study
        baselines = Baselines(small=solved.small.trials, large=solved.large.trials)
        dearer = [replace(trial, large_tokens=trial.large_tokens + 1) for trial in solved.large.trials]
        pairs = {"small-only": (solved.small.trials,) * 2, "large-only": (dearer, solved.large.trials)}
        return {
            "prm": {
                name: Comparison(service=service, offline=offline, baselines=baselines)
                for name, (service, offline) in pairs.items()
            }
        }

    monkeypatch.setattr(evaluate, "compare", compare)
    monkeypatch.setattr(evaluate, "CURVES", {name: CURVES[name] for name in ("threshold", "cascade")})
    monkeypatch.setattr(evaluate, "PRMS", {"prm": "main"})
    assert ended(monkeypatch, "--problems", "3", "--seeds", "2") == 1
    printed = capsys.readouterr()
    [sentence] = printed.err.splitlines()
    assert sentence.startswith("evaluate: The service's figures differ from the simulation's")
    assert "(large-only with prm)" in sentence
    figures = json.loads(printed.out.splitlines()[-1])["main"]
    assert set(figures["cpt95"]) == set(figures["transfer_apgr"]) == {"threshold", "cascade", "oracle"}
    assert figures["small_accuracy"] < figures["large_accuracy"]


def test_a_running_stack_is_reported_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with state_folder():
        assert ended(monkeypatch) == 1
    printed = capsys.readouterr()
    assert "Another stack runs in this folder" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["--problems", "1001", "--served", "1001"], "at most 1000 problems"), (["--models", "nowhere"], "nowhere")],
)
def test_an_impossible_measurement_is_reported_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert ended(monkeypatch, *arguments) == 2
    [sentence] = capsys.readouterr().err.splitlines()
    assert expected in sentence


def test_a_prm_misses_doubts_and_forgives() -> None:
    scored = Scored(
        {Label.RIGHT: [0.9, 0.8, 0.7, 0.3], Label.FIRST_ERROR: [0.1, 0.75], Label.WRONG: [0.9, 0.2, 0.9, 0.6]}
    )
    assert (scored.missed, scored.doubted, scored.forgiven) == (0.5, 0.25, 0.75)
    assert scored.auc == (4 + 2) / 8


def test_a_share_of_no_steps_is_zero() -> None:
    assert Scored({Label.WRONG: []}).forgiven == 0


def test_steps_of_one_kind_have_no_auc() -> None:
    assert Scored({Label.RIGHT: [0.9], Label.FIRST_ERROR: []}).auc is None
