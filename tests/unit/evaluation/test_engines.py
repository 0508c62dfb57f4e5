"""The engines of the settings are loaded with the memory of their models, and closed."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import pytest

from evaluation.engines import loaded_engines
from evaluation.in_process import score, solve
from shared.domain.options import Sampling
from shared.engines.port import ModelUnusable
from shared.machine.state import State
from shared.policies.threshold import Threshold
from shared.settings import Settings

SCRIPT = {"default": [{"small": "One.", "large": "Two.", "score": 0.1}, {"small": "So \\boxed{42}."}]}


def settings(tmp_path: Path, script: object = SCRIPT, **changes: object) -> Settings:
    path = tmp_path / "script.json"
    path.write_text(json.dumps(script))
    return Settings.model_validate({"engine": "scripted", "script": str(path), **changes})


def solved(chosen: Settings, memory: Path) -> State:
    with loaded_engines(chosen, memory=memory) as engines:
        assert engines.models.small == "scripted/small"
        [state] = solve([("What?", "42")], Threshold(), engines, sampling=Sampling())
    return state


def test_what_the_models_wrote_is_remembered_for_the_same_settings_alone(tmp_path: Path) -> None:
    memory = tmp_path / "memory.sqlite3"
    assert [step.text for step in solved(settings(tmp_path), memory).steps] == ["Two.", "So \\boxed{42}."]
    other = {"default": [{"small": "So \\boxed{1}."}]}
    assert solved(settings(tmp_path, other), memory).answer == "42"
    assert solved(settings(tmp_path, other, prompt="Q: {question}"), memory).answer == "1"


def test_an_engine_that_cannot_be_loaded_closes_the_others(tmp_path: Path) -> None:
    chosen = Settings.model_validate({"prm_model": str(tmp_path / "missing")})
    with pytest.raises(ModelUnusable), loaded_engines(chosen):
        pytest.fail("it was loaded")


def test_a_wrong_number_of_scores_is_no_score(tmp_path: Path) -> None:
    with loaded_engines(settings(tmp_path, SCRIPT | {"missing_scores": 1})) as engines:
        assert score("What?", ("a", "b"), engines, newest=2, problem_id=UUID(int=1)) == [None, None]
