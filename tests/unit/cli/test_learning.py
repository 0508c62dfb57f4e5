"""What `trim policies fit`, `train` and `calibrate` refuse, and how they stop."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.app import app
from cli.calibrating import SAME_PROBLEMS
from cli.errors import NotInstalled, requiring
from shared.policies.artefact import BadArtefact
from tests.unit.policies.pomdp_models import artefact_of, make_model
from training import fitting

PROBLEMS = "models/sample.jsonl"
TARGET = ("--target-accuracy", "0.5")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fit", "pomdp", "--into", "x"), "name one of: a file of problems, --from-database, --labelled."),
        (("train", "sequence", PROBLEMS, "--from-database", "--into", "x"), "a file of problems, --from-database."),
        (("fit", "aggregate", PROBLEMS, "--into", "x"), "'pomdp'"),
        (("calibrate", "threshold", PROBLEMS), "either --target-large-share"),
        (("calibrate", "threshold", PROBLEMS, "--target-accuracy", "1.5"), "less than or equal to 1"),
        (("calibrate", "small-only", PROBLEMS, "--target-accuracy", "0.5"), "no setting to calibrate"),
        (("calibrate", "threshold", PROBLEMS, "--target-accuracy", "0.5", "--parameters", "7"), "JSON object"),
        (("fit", "pomdp", PROBLEMS, "--into", "x", "--large-token-price", "2000000"), "less than or equal to 1000000"),
        (("train", "sequence", PROBLEMS, "--into", "x", "--large-token-price", "inf"), "less than or equal to 1000000"),
        (("train", "sequence", PROBLEMS, "--into", "x", "--large-token-price", "nan"), "less than or equal to 1000000"),
        (("train", "sequence", PROBLEMS, "--into", "x", "--seed", str(10**30)), "less than or equal to 4294967295"),
        (("calibrate", "threshold@3", PROBLEMS, *TARGET), "threshold is not fitted .* omit threshold@3."),
        (("calibrate", "threshold", PROBLEMS, *TARGET, "--artefact", "x.json"), "not fitted .* omit --artefact."),
        (("calibrate", "pomdp@3", PROBLEMS, *TARGET, "--artefact", "x.json"), "name two artefacts"),
        (("calibrate", "threshold", PROBLEMS, *TARGET, "--parameters", '{"threshold":0.3}'), "omit it from --param"),
        (("default", "pomdp"), "names no version"),
        (("show", "POMDP"), "not a policy"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_what_is_wrong(arguments: tuple[str, ...], said: str) -> None:
    ended = CliRunner().invoke(app, ["policies", *arguments])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert re.search(said, " ".join(ended.stderr.replace("│", " ").split()))


@pytest.mark.parametrize("policy", ["threshold@3", "pomdp@3:large_token_price=0.1"])
def test_a_replay_with_a_version_and_an_artefact_that_do_not_fit_is_refused(policy: str) -> None:
    ended = CliRunner().invoke(app, ["replay", policy, "folder", "--artefact", "x.json"])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "omit" in ended.stderr


def test_a_missing_library_names_the_command_that_installs_it() -> None:
    with pytest.raises(NotInstalled, match=r"needs nowhere, .* pip install '\.\[train\]'"), requiring("train"):
        import nowhere  # type: ignore[import-not-found]  # noqa: F401


def test_an_artefact_that_the_policy_cannot_decide_with_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, solutions, into = tmp_path / "script.json", tmp_path / "labelled.jsonl", tmp_path / "into"
    script.write_text('{"problems": {}}')
    solutions.write_text('{"question": "A?", "steps": ["So."], "label": -1}\n')
    monkeypatch.setenv("TRIM_ENGINE", "scripted")
    monkeypatch.setenv("TRIM_SCRIPT", str(script))
    damaged = artefact_of(make_model(), small_tokens=np.zeros(3))
    monkeypatch.setattr(fitting, "fit_to_labelled", lambda *_, **__: damaged)
    ended = CliRunner().invoke(app, ["policies", "fit", "pomdp", "--labelled", str(solutions), "--into", str(into)])
    assert isinstance(ended.exception, BadArtefact), ended.output
    assert "'small_tokens' should hold numbers above 0" in str(ended.exception)
    assert (ended.stdout, list(into.glob("pomdp.*"))) == ("", [])


def test_a_calibration_says_that_choice_and_figures_come_from_the_same_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, problems = tmp_path / "script.json", tmp_path / "problems.jsonl"
    step = {"small": "So \\boxed{2}.", "large": "So \\boxed{1}.", "score": 0.4}
    script.write_text(json.dumps({"problems": {}, "default": [step]}))
    problems.write_text('{"question": "A?", "answer": "1"}\n{"question": "B?", "answer": "1"}\n')
    monkeypatch.setenv("TRIM_ENGINE", "scripted")
    monkeypatch.setenv("TRIM_SCRIPT", str(script))
    command = ["policies", "calibrate", "threshold", str(problems), "--target-accuracy", "1"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines()[-1] == SAME_PROBLEMS
    assert json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["note"] == SAME_PROBLEMS
    helped = CliRunner().invoke(app, ["policies", "calibrate", "--help"]).stdout
    assert "the same problems that its figures are measured on" in " ".join(helped.split())


def test_ctrl_c_stops_a_command_at_once_and_keeps_what_it_has(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    slow = {"small": "One.", "small_ms": 600_000}
    script.write_text(json.dumps({"problems": {"A?": [{"small": "So \\boxed{1}."}]}, "default": [slow]}))
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"question": "A?", "answer": "1"}\n{"question": "B?", "answer": "2"}\n')
    command = [sys.executable, "-c", "from cli.app import main; main()", "policies", "calibrate", "threshold"]
    options = [str(problems), "--target-accuracy", "0.5", "--memory", str(tmp_path / "memory.sqlite3")]
    engine = {"TRIM_ENGINE": "scripted", "TRIM_SCRIPT": str(script), "TRIM_LOG_LEVEL": "info", "PATH": ""}
    with subprocess.Popen([*command, *options], env=engine, stdout=-1, stderr=-1, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "model_loading" in line and (tmp_path / "memory.sqlite3").exists():
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "trim: Stopped; the same command with the same folder or memory resumes."
