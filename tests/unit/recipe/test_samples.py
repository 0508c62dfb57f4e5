"""Sampling of the PRM's training problems, interrupted and resumed."""

from __future__ import annotations

from pathlib import Path

from evaluation.offline import GREEDY, Models
from recipe.train.samples import read, sample_training
from tests.unit.engines.bundled import MODELS

PLAN = [(GREEDY, 2)]


def test_a_half_written_line_is_replaced(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    with Models(MODELS / "small", MODELS / "large") as models:
        sample_training(models, whole, seed=7, plan=PLAN)
        broken.write_text(whole.read_text()[:-9])
        sample_training(models, broken, seed=7, plan=PLAN)
        assert broken.read_text() == whole.read_text()
        sample_training(models, broken, seed=7, plan=PLAN)  # All is there: nothing more is written.
    assert broken.read_text() == whole.read_text()
    assert read(broken)
