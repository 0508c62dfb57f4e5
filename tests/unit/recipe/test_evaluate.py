"""How the command that measures models ends. Its figures are tested with the service that it starts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.comparison import Answered, Comparison, Comparisons
from evaluation.true_cost import Computed
from recipe import evaluate
from recipe.evaluate import Chosen
from recipe.measuring import Measured, Scored, cheapest
from recipe.problems.checker import Label
from recipe.problems.drawing import Split
from shared.settings import Settings
from stack.running import state_folder
from tests.unit.simulation.conftest import quiet  # noqa: F401 - a fixture

BUNDLED = Path(__file__).parents[3] / "models"


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
        settings: Settings, models: Path, reported: Mapping[Split, Mapping[str, Measured]], chosen: Chosen
    ) -> Comparisons:
        compared: dict[str, dict[str, Comparison]] = {}
        for split, by_prm in reported.items():
            measured = by_prm["prm"]
            results = {
                "small alone": (measured.small, 0),
                "large alone": (measured.large, 1),
                "routed": (measured.curve[chosen["prm"]["parity"]], 0),
            }
            compared[split] = {
                name: Comparison(
                    service=[replace(result, large_tokens=result.large_tokens + extra) for result in offline],
                    offline=offline,
                    baselines=measured.baselines,
                )
                for name, (offline, extra) in results.items()
            }
        return compared

    monkeypatch.setattr(evaluate, "compare", compare)
    assert ended(monkeypatch, "--problems", "3", "--models", str(BUNDLED)) == 1
    printed = capsys.readouterr()
    [sentence] = printed.err.splitlines()
    assert sentence.startswith("evaluate-models: The service's figures differ from the simulation's")
    assert "(large alone on test problems, large alone on transfer problems)" in sentence
    figures = json.loads(printed.out.splitlines()[-1])
    assert figures["service_small_accuracy"] == figures["small_accuracy"]
    assert figures["service_large_share_large_alone"] > 1


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
    [(["--problems", "1001"], "at most 1000 problems"), (["--models", "nowhere"], "nowhere")],
)
def test_an_impossible_measurement_is_reported_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert ended(monkeypatch, *arguments) == 2
    [sentence] = capsys.readouterr().err.splitlines()
    assert expected in sentence


def test_the_highest_threshold_is_chosen_if_none_is_good_enough(measured: Measured) -> None:
    assert cheapest(measured, lambda _: False) == 0.9
    assert cheapest(measured, lambda _: True) == 0.5


def test_the_true_cost_is_a_share_of_that_of_the_large_model_alone(measured: Measured) -> None:
    prices = Computed(small=1, prm=2, large=5)
    assert measured.true_share(measured.large, prices).total == pytest.approx(1.0)
    assert measured.true_share(measured.small, prices).total == pytest.approx(20 / 200)


def test_a_prm_misses_doubts_and_forgives() -> None:
    scored = Scored(
        {Label.RIGHT: [0.9, 0.8, 0.7, 0.3], Label.FIRST_ERROR: [0.1, 0.75], Label.WRONG: [0.9, 0.2, 0.9, 0.6]}
    )
    assert (scored.missed, scored.doubted, scored.forgiven) == (0.5, 0.25, 0.75)
    assert scored.auc == (4 + 2) / 8


def test_a_share_of_no_steps_is_zero() -> None:
    assert Scored({Label.WRONG: []}).forgiven == 0


@pytest.fixture
def measured() -> Measured:
    """Return only the places of two thresholds on the curve."""
    one = Answered(is_solved=True, large_tokens=100, answer="7", computed=Computed(small=10, prm=20, large=30))
    curve = {0.9: [replace(one, large_tokens=50)], 0.5: [replace(one, large_tokens=20)]}
    scored = Scored({})
    return Measured(
        stories=[],
        small=[replace(one, is_solved=False, computed=Computed(small=20, prm=0, large=0))],
        large=[one],
        curve=curve,
        checked=[one],
        greedy=scored,
        sampled=scored,
    )
